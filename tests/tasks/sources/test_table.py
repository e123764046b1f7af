"""Damaged files of data sets are one clear error, or one row that is left out."""

import gzip
import json

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.errors import TaskInputError, UnfitRowError
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tasks.sources.table import Source, find, read_rows, read_table

TOKENIZER = tiny_tokenizer()


def test_damaged_archives_are_one_clear_error(tmp_path):
    whole = gzip.compress(json.dumps([{"text": "a" * 9000}]).encode())
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "changed.json.gz").write_bytes(whole[:20] + b"xxxxxxxx" + whole[28:])
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(TaskInputError, match=r"\.json\.gz can't be read"):
            list(read_rows(str(path)))


def test_compressed_files_are_found_if_there_are_no_plain_ones(tmp_path):
    (tmp_path / "b_train.csv.gz").write_bytes(gzip.compress(b"text,category\nhello,on\n"))
    (path,) = find(str(tmp_path), ["a*.csv", "b_train*.csv"])
    assert list(read_rows(path)) == [{"text": "hello", "category": "on"}]
    (tmp_path / "b_train.csv").write_text("text,category\nbye,off\n")
    (path,) = find(str(tmp_path), ["a*.csv", "b_train*.csv"])
    assert path.endswith("b_train.csv")


def test_json_nested_too_deep_is_not_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_text("[" * 200_000 + '\n{"text": "b"}\n')
    first, second = read_rows(str(tmp_path / "a.jsonl"))
    assert isinstance(first, UnfitRowError) and second == {"text": "b"}
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(TaskInputError, match=r"a\.json is not JSON"):
        list(read_rows(str(tmp_path / "a.json")))


def test_a_byte_order_mark_is_not_part_of_a_column(tmp_path):
    (tmp_path / "a.csv").write_text("text,category\nhello,on\n", encoding="utf-8-sig")
    assert list(read_rows(str(tmp_path / "a.csv"))) == [{"text": "hello", "category": "on"}]


@pytest.mark.parametrize("field", ["question", "answer"])
def test_rows_that_hold_tokens_of_the_tokenizer_give_way_to_others(tmp_path, field):
    rows = [
        {"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"}
        for n in range(40)
    ]
    for number, token in enumerate(("<|im_end|>", "<think>", "</think>", "<|end_recall|>")):
        for row in rows[number::8]:
            row[field] = f"Well {token} then. {row[field]}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "gsm8k_train.jsonl").write_text(lines)
    settings = TaskSettings(target_length=400, data_dir=str(tmp_path))
    seen = set()
    for index in range(40):
        made = record("dapo_math", TOKENIZER, settings, "train", 0, index)
        assert "Well" not in made.prompt and "Well" not in TOKENIZER.decode(made.targets.tolist())
        seen.add(made.ground_truth["answers"][0])
    assert len(seen) > 10


def test_text_in_which_every_row_holds_a_token_is_one_clear_error(tmp_path):
    row = {"question": "What <|im_end|> is 2 plus 2?", "answer": "4.\n#### 4"}
    lines = "\n".join(json.dumps({**row, "question": f"{n} {row['question']}"}) for n in range(9))
    (tmp_path / "gsm8k_train.jsonl").write_text(lines)
    settings = TaskSettings(target_length=400, data_dir=str(tmp_path))
    with pytest.raises(TaskInputError, match=r"dapo_math: no row .* holds the token <\|im_end\|>"):
        record("dapo_math", TOKENIZER, settings, "train", 0, 0)


def test_a_problem_of_many_digits_gives_way_to_another(tmp_path):
    rows = [
        {"question": f"What is {'1' * 900 if n % 2 else n} times 1?", "answer": f"x\n#### {n}"}
        for n in range(30)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "gsm8k_train.jsonl").write_text(lines)
    settings = TaskSettings(target_length=400, data_dir=str(tmp_path))
    for index in range(20):
        made = record("dapo_math", TOKENIZER, settings, "train", 0, index)
        assert "1" * 900 not in made.prompt


def question_rows(*questions):
    return "".join(json.dumps({"question": q, "answer": "x"}) + "\n" for q in questions)


def read_asked(folder, split):
    source = Source(
        dataset="a set",
        files={"train": ("train.jsonl",), "validation": ("dev.jsonl",)},
        where="here",
        parse=lambda raw: raw["question"],
        key=lambda row: row,
        asks=str.casefold,
    )
    return read_table(source, str(folder), split)


def test_training_leaves_out_what_validation_asks(tmp_path, caplog):
    (tmp_path / "train.jsonl").write_text(question_rows("Who?", "WHEN?", "Where?"))
    (tmp_path / "dev.jsonl").write_text(question_rows("When?", "Why?"))
    assert read_asked(tmp_path, "validation").rows == ("When?", "Why?")
    table = read_asked(tmp_path, "train")
    assert table.rows == ("Who?", "Where?")
    assert table.skipped == {"a question of a validation row": 1}
    assert "1 rows left out: a question of a validation row (1)" in caplog.text


def test_one_file_is_divided_without_a_question_in_both_parts(tmp_path):
    # By their hashes some of the spellings of a question are for validation.
    questions = [f"{who} {n}?" for n in range(60) for who in ("Who", "WHO", "who", "wHO")]
    (tmp_path / "train.jsonl").write_text(question_rows(*questions))
    train, validation = (read_asked(tmp_path, split).rows for split in ("train", "validation"))
    asked = {question.casefold() for question in validation}
    assert asked and not asked & {question.casefold() for question in train}
    assert len(train) == len([q for q in questions if q.casefold() not in asked])


def test_training_that_asks_only_what_validation_asks_is_one_clear_error(tmp_path):
    (tmp_path / "train.jsonl").write_text(question_rows("Who?"))
    (tmp_path / "dev.jsonl").write_text(question_rows("WHO?"))
    with pytest.raises(
        TaskInputError, match=r"all 1 usable rows of .* ask what rows for validation ask"
    ):
        read_asked(tmp_path, "train")
