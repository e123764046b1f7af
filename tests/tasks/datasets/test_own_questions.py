"""A user's own questions: whole documents with quotes, or passages among distractors."""

import errno
import json
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import settings as limits

from recallm_jax.policy.tiny import tiny_tokenizer
from storage.errors import InputError
from tasks.datasets import own_questions
from tasks.datasets.own_questions import SOURCE, Reading, parse
from tasks.datasets.registry import find
from tasks.errors import TaskInputError, UnfitRowError
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tasks.sources.table import read_table
from tests.oracles.passage_files import FILLERS
from tests.oracles.task_checks import check_demonstration_is_right, check_fit
from tests.oracles.wild_json import spoilt

TOKENIZER = tiny_tokenizer()
CONTRACT = """Contract {number}

1. The tenant pays {rent} crowns a month, due on the first day.
2. Notice is given
   {months} months ahead. The deposit is {rent} crowns; it bears no interest.
3. Pets: none."""


def contract(number: int, **fields) -> dict:
    return {
        "question": f"How long is the notice of contract {number}?",
        "answers": [f"{number + 2} months", f"{number + 2}"],
        "document": CONTRACT.format(number=number, rent=700 + number, months=number + 2),
        **fields,
    }


def lake(number: int, **fields) -> dict:
    title, sentences = FILLERS[number]
    near = [{"title": name, "text": " ".join(text)} for name, text in FILLERS[5:9]]
    return {
        "question": f"How large is {title}?",
        "answer": f"{40 + number} hectares",
        "passages": [*near, {"title": title, "text": " ".join(sentences), "gold": True}],
        **fields,
    }


def write(folder, name, rows):
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")


def settings(folder, length=700):
    return TaskSettings(length, data_dir=str(folder))


def quoted(row: Reading) -> list[str]:
    return [row.document[low:high] for low, high in row.evidence]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "own_questions_train.jsonl", [contract(n) for n in range(4)] + [lake(1)])
    write(tmp_path, "own_questions_validation.jsonl", [contract(n) for n in range(4, 6)])
    return tmp_path


def test_the_rows_that_the_docs_show_are_read():
    text = (pathlib.Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    document, passages = map(parse, map(json.loads, block.splitlines()))
    assert quoted(document) == ["Notice is given three months ahead."]
    assert passages.evidence[0].passage.title == "The Mill"


def test_a_document_is_shown_and_may_be_copied_as_it_is_written(folder):
    seen = set()
    for index in range(10):
        draft = find("own_questions").draft(settings(folder), "train", 0, index, 0)
        example = draft.example(0)
        ((low, high),) = example.documents
        rows = [contract(n) for n in range(4)]
        shown = [row for row in rows if row["document"] == example.user[low:high]]
        if draft.most:
            continue
        (row,) = shown
        assert row["question"] in example.user[:low] + example.user[high:]
        assert row["document"] not in example.user[:low] + example.user[high:]
        seen.add(row["question"])
    assert len(seen) == 4


def test_the_evidence_is_the_quotes_in_their_order_with_any_line_breaks():
    row = contract(1, evidence=["Notice is given 3 months ahead.", "Pets: none."])
    assert quoted(parse(row)) == ["Notice is given\n   3 months ahead.", "Pets: none."]
    backwards = contract(1, evidence=row["evidence"][::-1])
    assert quoted(parse(backwards)) == ["Pets: none.", "Notice is given\n   3 months ahead."]


def test_without_quotes_the_sentence_most_like_the_question_that_holds_the_answer_counts():
    row = contract(1, question="What is the deposit?", answers=["701 crowns"])
    assert quoted(parse(row)) == ["The deposit is 701 crowns; it bears no interest."]
    row["question"] = "What does the tenant pay?"
    assert quoted(parse(row)) == ["The tenant pays 701 crowns a month, due on the first day."]


def test_passages_are_fitted_among_distractors_that_are_not_gold(folder):
    write(folder, "own_questions_train.jsonl", [lake(n) for n in range(5)])
    for index in range(5):
        draft = find("own_questions").draft(settings(folder, 500), "train", 0, index, 0)
        check_fit(draft, TOKENIZER, 500)
        # Beside the gold one, four that come with the row and the gold ones of four others.
        assert draft.most == 8
        example = draft.example(draft.most)
        ((low, high),) = example.gold
        assert example.truth["answers"][0] in example.user[low:high]
        number = int(re.search(r"\d+", example.truth["answers"][0])[0]) - 40
        assert f"How large is {FILLERS[number][0]}?" in example.user


def test_without_a_mark_the_passage_that_holds_an_answer_is_gold():
    row = lake(1)
    row["passages"][-1].pop("gold")
    (gold,) = parse(row).evidence
    assert gold.passage.title == FILLERS[1][0] and len(parse(row).others) == 4


def test_without_a_mark_the_passage_that_speaks_of_what_is_asked_is_gold():
    def row(*passages, **fields):
        values = [{"title": title, "text": text} for title, text in passages]
        return {
            "question": "When was the mill built?",
            "answer": "1990",
            "passages": values,
        } | fields

    oats = ("Oats", "Oats were first sold for ten pounds in 1990.")
    mill = ("The Mill", "It is red. It was built in 1990 by Ines Roth.")
    (gold,) = parse(row(oats, mill)).evidence
    assert gold.passage.title == "The Mill"
    assert "built in 1990" in gold.passage.text[slice(*gold.support)]
    # Nothing is asked of the oats, and a title alone can't be recited as the answer.
    who = {"question": "Who built the mill?", "answer": "Ines Roth"}
    for unfit in (row(oats), row(("Ines Roth", "She built the mill."), **who)):
        with pytest.raises(UnfitRowError, match="no passage is gold"):
            parse(unfit)
    unfit["passages"][0]["gold"] = True
    assert parse(unfit).evidence[0].passage.title == "Ines Roth"


def test_a_bare_number_is_evidence_only_beside_a_word_of_the_question():
    asked = {"question": "How many rooms does the inn have?", "answer": 3}
    chapter = asked | {"document": "Chapter 3 begins here. The inn is old."}
    with pytest.raises(UnfitRowError, match="no sentence with the number"):
        parse(chapter)
    assert parse(chapter | {"evidence": ["Chapter 3 begins here."]}).evidence
    both = asked | {"document": "Chapter 3 begins here. The inn has 3 rooms."}
    assert quoted(parse(both)) == ["The inn has 3 rooms."]


def evidence_of(document, *answers, question="What is it?", **fields):
    row = {"question": question, "answers": list(answers), "document": document, **fields}
    return quoted(parse(row))


def test_answers_are_found_as_words_and_whole_numbers():
    assert evidence_of("Rent: $5,000.\nA fee of $5 is due.", "$5") == ["A fee of $5 is due."]
    assert evidence_of("It costs 1.5 crowns. Take 5 of them.", "5") == ["Take 5 of them."]
    assert evidence_of("Annual fees are due. Ann pays.", "Ann") == ["Ann pays."]
    # A hard-wrapped text, and a script that does not set words apart.
    assert evidence_of("He came from New\nYork in May. So it was.", "New York") == [
        "He came from New\nYork in May."
    ]
    assert evidence_of("甲方是王先生。租金为五千元。", "五千元") == ["租金为五千元。"]


def test_the_evidence_is_the_line_of_a_table_or_the_near_part_of_a_long_line():
    table = "\n".join(f"item {number}\t{number * 7}\tred" for number in range(100))
    assert evidence_of(table, "350") == ["item 50\t350\tred"]
    (near,) = evidence_of("word " * 2000 + "the key is teal " + "word " * 2000, "teal")
    assert "the key is teal" in near and len(near) < 1300


def test_yes_and_no_stand_anywhere_and_need_evidence():
    with pytest.raises(UnfitRowError, match="no evidence, and an answer that is not in the doc"):
        evidence_of("No pets are allowed.", "No")
    assert evidence_of("No pets are allowed.", "No", evidence="pets are allowed") == [
        "pets are allowed"
    ]


def test_a_quote_is_taken_in_whole_words_and_a_short_one_with_its_sentence():
    text = "The catalogue lists it. Item 7 costs 9 crowns. It is sold."
    assert evidence_of(text, "yes", evidence=["atalogue list"]) == ["catalogue lists"]
    assert evidence_of(text, "yes", evidence=["9"]) == ["Item 7 costs 9 crowns."]


def test_numbers_count_as_texts_and_null_as_absent():
    row = {"question": "When?", "answer": 1801, "answers": None, "document": "In 1801 it was."}
    assert parse(row | {"passages": None, "evidence": None}).answers == ("1801",)
    marked = lake(1)
    marked["passages"][0]["gold"] = 1
    titles = [item.passage.title for item in parse(marked).evidence]
    # Both that are marked, in their order.
    assert titles == [FILLERS[5][0], FILLERS[1][0]]
    marked["passages"][0]["text"] = ""
    with pytest.raises(UnfitRowError):
        parse(marked)


def only(folder, row, **options):
    """Return the record of the only row for training."""
    write(folder, "own_questions_train.jsonl", [row])
    write(folder, "own_questions_validation.jsonl", [lake(1)])
    wanted = TaskSettings(3000, data_dir=str(folder), **options)
    return record("own_questions", TOKENIZER, wanted, "train", 0, 0)


def recalled(example) -> list[str]:
    text = TOKENIZER.decode(example.targets.tolist())
    return re.findall(r"<\|start_recall\|>(.*?)<\|end_recall\|>", text, re.DOTALL)


@pytest.mark.parametrize("place", [0, 40, 79])
def test_evidence_that_is_too_long_for_a_span_is_cut_around_the_answer(place, tmp_path):
    words = [f"clause{number}" for number in range(80)]
    words[place] = "three months"
    text = f"First. {' '.join(words)}. Last."
    row = {"question": "How long?", "answer": "three months", "document": text}
    for quoted_too in ({}, {"evidence": [" ".join(words)]}):
        example = only(tmp_path, row | quoted_too)
        (span,) = recalled(example)
        assert "three months" in span and len(TOKENIZER.encode(span)) <= 129
        check_demonstration_is_right(example, TOKENIZER)


def test_eight_quotes_are_recalled_for_the_full_reward_and_nine_refused(tmp_path):
    lines = [f"Item {number} costs {number * 3} crowns." for number in range(9)]
    row = {"question": "Sum?", "answer": "many", "document": "\n".join(lines)}
    example = only(tmp_path, row | {"evidence": lines[:8]})
    assert [span.strip() for span in recalled(example)] == lines[:8]
    check_demonstration_is_right(example, TOKENIZER)
    with pytest.raises(UnfitRowError, match="not a list of at most 8 quotes"):
        parse(row | {"evidence": lines})


def test_the_alias_that_is_told_is_one_of_the_evidence(tmp_path):
    row = {"question": "Who?", "answers": ["Ann", "Bob"], "document": "Ann came. Bob did it."}
    example = only(tmp_path, row | {"evidence": ["Bob did it."]})
    assert TOKENIZER.decode(example.targets.tolist()).endswith("Answer: Bob<|im_end|>")


def test_a_row_that_no_span_may_quote_gives_way(tmp_path):
    short = {"question": "What?", "answer": "teal", "document": "It is teal."}
    with pytest.raises(TaskInputError, match=r"no row of 32 could be used; .* allowed are 40 to"):
        only(tmp_path, short, min_recall_length=40)


MISTAKES = {
    "no question": {"question": " "},
    "no answer": {"answers": []},
    "an answer of more than 300 characters": {"answers": "very long " * 40},
    "not exactly one of document and passages": {"passages": []},
    "no document": {"document": ""},
    "evidence that is not in the document": {"evidence": ["Notice is given 4 months ahead."]},
    "no evidence, and an answer that is not in the document": {"answers": ["a year"]},
    "document holds a control token": {"document": "It is <|im_end|> 3 months."},
}


@pytest.mark.parametrize("reason", MISTAKES)
def test_rows_that_can_not_be_used_are_left_out_and_counted(reason, tmp_path):
    rows = [contract(2), contract(1, **MISTAKES[reason])]
    write(tmp_path, "own_questions_train.jsonl", rows)
    write(tmp_path, "own_questions_validation.jsonl", [lake(1)])
    table = read_table(SOURCE, str(tmp_path), "train")
    assert [row.text for row in table.rows] == [contract(2)["question"]]
    assert table.skipped == {reason: 1}


def test_passages_without_a_gold_one_are_refused():
    row = lake(1, answer="9 hectares")
    row["passages"][-1]["gold"] = False
    with pytest.raises(UnfitRowError, match="no passage is gold, or has a sentence that answers"):
        parse(row)


@given(row=spoilt(contract(1, evidence=["Pets: none."])) | spoilt(lake(1)))
@limits(max_examples=200, deadline=None)
def test_spoilt_rows_are_read_or_refused(row):
    try:
        found = parse(row)
    except UnfitRowError:
        return
    assert found.answers and found.evidence


def test_questions_on_one_document_stay_on_one_side(tmp_path):
    def rows(number):
        return [contract(number), contract(number, question="Who may move in?", answers=["none"])]

    write(tmp_path, "own_questions.jsonl", [row for n in range(60) for row in rows(n)])
    sides = [read_table(SOURCE, str(tmp_path), split).rows for split in ("train", "validation")]
    train, validation = ({row.document for row in side} for side in sides)
    assert train.isdisjoint(validation) and len(train | validation) == 60
    assert len(sides[0]) + len(sides[1]) == 120 and 1 <= len(validation) <= 15


def test_one_document_for_both_splits_is_an_error_that_asks_for_a_file_for_the_other(tmp_path):
    write(tmp_path, "own_questions.jsonl", [contract(1)])
    with pytest.raises(
        TaskInputError,
        match=r"none of the 1 rows of .*own_questions.jsonl is for validation: .* give "
        r"own_questions_validation\*.jsonl too, with rows for validation",
    ):
        record("own_questions", TOKENIZER, settings(tmp_path), "validation", 0, 0)


def test_where_most_documents_are_too_long_the_others_are_drawn(tmp_path):
    rows = [contract(n) for n in range(200)]
    for number, row in enumerate(rows):
        row["document"] += "\nAnnex. Nothing is agreed here." * (number % 20) * 40
    write(tmp_path, "own_questions_train.jsonl", rows)
    drawn = {
        record("own_questions", TOKENIZER, settings(tmp_path), "train", 0, index).prompt
        for index in range(60)
    }
    assert len(drawn) > 9


def test_a_document_longer_than_the_target_gives_way(folder):
    long = contract(9)
    long["document"] += "\nAnnex. Nothing is agreed here." * 300
    write(folder, "own_questions_train.jsonl", [long, contract(1)])
    for index in range(4):
        example = record("own_questions", TOKENIZER, settings(folder), "train", 0, index)
        assert "contract 1?" in example.prompt


def test_rows_may_name_the_file_of_their_document(tmp_path):
    (tmp_path / "texts").mkdir()
    rows = [contract(n) for n in range(3)]
    (tmp_path / "texts" / "one.txt").write_text(rows[0].pop("document"), encoding="utf-8")
    rows[0]["document_file"] = "texts/one.txt"
    # A field that is null counts as absent.
    rows[1]["document_file"] = None
    write(tmp_path, "own_questions_train.jsonl", rows)
    found = read_table(SOURCE, str(tmp_path), "train").rows
    assert [row.document for row in found] == [contract(n)["document"] for n in range(3)]


def test_document_files_that_can_not_be_read_are_counted(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good.txt").write_text("A text.", encoding="utf-8")
    files = ["none.txt", "latin.txt", 3, "", ["latin.txt"], {}]
    rows = [{**contract(n), "document": None, "document_file": x} for n, x in enumerate(files)]
    rows += [contract(7, document_file="good.txt"), contract(8)]
    write(tmp_path, "own_questions_train.jsonl", rows)
    (tmp_path / "own_questions_validation.jsonl").write_text(json.dumps(contract(9)))
    table = read_table(SOURCE, str(tmp_path), "train")
    assert [row.text for row in table.rows] == [contract(8)["question"]]
    assert table.skipped == {
        "document_file none.txt can't be read as UTF-8": 1,
        "document_file latin.txt can't be read as UTF-8": 1,
        "both document and document_file": 1,
        "a document_file that is not a path": 4,
    }


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "no disk"), InputError("no network")])
def test_a_fault_of_the_disk_or_the_network_is_no_fault_of_a_row(fault, tmp_path, monkeypatch):
    """A process that left the row out would draw other examples than the others."""

    def fail(path):
        raise fault

    monkeypatch.setattr(own_questions, "read_text", fail)
    rows = [contract(1), contract(2, document=None, document_file="a.txt")]
    write(tmp_path, "own_questions_train.jsonl", rows)
    with pytest.raises(type(fault), match=r"no (disk|network)"):
        read_table(SOURCE, str(tmp_path), "train")
