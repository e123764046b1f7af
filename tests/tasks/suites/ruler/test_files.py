"""The benchmark's own files: rows are unchanged, and a malformed line is one clear error."""

import json
import logging

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.errors import TaskInputError
from tasks.prompts.settings import TaskSettings
from tasks.suites.registry import find_task

TOKENIZER = tiny_tokenizer()


def niah_row(value="1234567", **fields):
    text = (
        "A special magic number is hidden within the following text. Make sure to memorize it. I "
        "will quiz you about the number afterwards.\nThe grass is green.\nOne of the special magic "
        f"numbers for calm-fox is: {value}.\nWhat is the special magic number for calm-fox "
        "mentioned in the provided text?"
    )
    return {
        # In these files `index` is a character offset, equal in each row.
        "index": text.index(value),
        "input": text,
        "outputs": [value],
        "length": 1000,
        "length_w_model_temp": 1000,
        "answer_prefix": " The special magic number for calm-fox mentioned in the provided text is",
        "token_position_answer": 60,
        **fields,
    }


def cwe_row():
    head = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n"
    )
    question = "\nQuestion: What are the 10 most common words in the above list?"
    prefix = " Answer: The top 10 words that appear most often in the list are:"
    text = f"{head}1. no 2. no 3. so{question}{prefix}1. no\n{head}1. é 2. yes 3. yes{question}"
    fields = {"input": text, "answer_prefix": prefix, "outputs": ["yes"]}
    return {"index": 0, "length": 1000, "length_w_model_temp": 1000, **fields}


def qa_row():
    asked = (
        "Answer the question based on the given documents. Only give me the answer and do not "
        "output any other words."
    )
    text = (
        f"{asked}\n\nThe following are given documents.\n\nDocument 1:\nThe Rhine.\n\n{asked}"
        "\n\nQuestion: Which river?"
    )
    outputs = ["Rhine", "The Rhine", "Rhine"]
    return {
        "index": 0,
        "input": text,
        "outputs": outputs,
        "length": 1000,
        "answer_prefix": " Answer:",
    }


def write(folder, task, rows, length=None):
    place = folder / "ruler" / str(length) / task if length else folder / task
    place.mkdir(parents=True, exist_ok=True)
    path = place / "validation.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read(folder, name, count, length=1024):
    settings = TaskSettings(target_length=1, data_dir=str(folder))
    return find_task(name).records(TOKENIZER, settings, length, count, 0)


def test_official_rows_are_taken_as_they_are_and_known_by_their_line(tmp_path):
    rows = [niah_row("1234567"), niah_row("7654321"), niah_row("1111111")]
    assert rows[0]["index"] == rows[1]["index"]
    write(tmp_path, "niah_single_1", rows, length=1024)
    records = read(tmp_path, "ruler_niah_single_1", 3)
    assert [r.example_id for r in records] == [
        f"ruler_niah_single_1_1k/line{number}" for number in (1, 2, 3)
    ]
    for record, row in zip(records, rows, strict=True):
        assert record.prompt == row["input"] + row["answer_prefix"]
        assert record.ground_truth["parts"] == [row["outputs"]]
    copied = "".join(
        TOKENIZER.decode([token])
        for token, flag in zip(records[0].inputs, records[0].copyable, strict=True)
        if flag
    )
    assert copied.strip() == (
        "The grass is green.\nOne of the special magic numbers for calm-fox is: 1234567."
    )
    chat = read(tmp_path, "ruler_niah_single_1_chat", 1)[0]
    assert rows[0]["input"] in chat.prompt and rows[0]["answer_prefix"] not in chat.prompt


def test_the_worked_example_of_an_official_row_is_not_copyable(tmp_path):
    write(tmp_path, "cwe", [cwe_row()])
    (record,) = read(tmp_path, "ruler_cwe", 1)
    low, high = record.offsets[record.copyable][[0, -1], [0, 1]]
    assert record.prompt[low:high] == "1. é 2. yes 3. yes"


def test_every_annotators_answer_is_kept(tmp_path):
    write(tmp_path, "qa_1", [qa_row()])
    (record,) = read(tmp_path, "ruler_qa_1", 1)
    assert record.ground_truth["answers"] == ["Rhine", "The Rhine", "Rhine"]
    assert "parts" not in record.ground_truth


HELMET_ROW = {"context": "x", "query": "y", "type_needle_v": "numbers", "answer": "1"}
MALFORMED = {
    "{": "line 2: not JSON",
    "[]": "line 2: not a JSON object",
    json.dumps(HELMET_ROW): "line 2: no field 'input'; this is not a row of RULER \\(HELMET's",
    json.dumps(niah_row(outputs="1234567")): "line 2: outputs = '1234567' must be list",
    json.dumps(niah_row(outputs=[])): r"line 2: outputs = \[\] must be texts, at least one",
    json.dumps(niah_row(outputs=[" "])): r"line 2: outputs = \[' '\] must be texts",
    json.dumps(niah_row(outputs=[7])): r"line 2: outputs = \[7\] must be texts",
    json.dumps(niah_row(input="\ud800")): "line 2: input is not valid Unicode",
    json.dumps(niah_row(length=True)): "line 2: length = True must be int",
    json.dumps(niah_row(length=4000)): "line 2: length = 4000 is above the target length 1024",
    json.dumps(niah_row(input="Hello")): "line 2: input is not a prompt of ruler_niah_single_1",
    "": "line 2: not JSON",
}


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_line_is_named(line, tmp_path):
    write(tmp_path, "niah_single_1", [niah_row(), line, niah_row()])
    with pytest.raises(TaskInputError, match=MALFORMED[line]):
        read(tmp_path, "ruler_niah_single_1", 3)
    # Lines after the requested ones are not checked.
    assert len(read(tmp_path, "ruler_niah_single_1", 1)) == 1


def test_a_file_with_too_few_rows_is_refused(tmp_path):
    write(tmp_path, "niah_single_1", [niah_row(), ""])
    with pytest.raises(TaskInputError, match=r"holds 1 rows, but evaluation\.num_examples = 2"):
        read(tmp_path, "ruler_niah_single_1", 2)


def test_a_file_of_a_shorter_length_is_refused_unless_its_folder_says_so(tmp_path):
    write(tmp_path, "niah_single_1", [niah_row(length=500), niah_row(length=512)])
    with pytest.raises(TaskInputError, match="at most 512 tokens for the target length 1024; set"):
        read(tmp_path, "ruler_niah_single_1", 2)
    write(tmp_path, "niah_single_1", [niah_row(length=500)], length=1024)
    assert len(read(tmp_path, "ruler_niah_single_1", 1)) == 1


def test_rows_that_this_tokenizer_makes_longer_are_said_so(tmp_path, caplog):
    rows = [niah_row(), niah_row(input=niah_row()["input"].replace("green.", "green. " * 400))]
    write(tmp_path, "niah_single_1", rows)
    with caplog.at_level(logging.WARNING):
        records = read(tmp_path, "ruler_niah_single_1", 2)
    assert len(records[1].inputs) > 1024
    assert "1 of 2 rows take more than 1024 tokens with this tokenizer" in caplog.text


def test_the_file_of_the_length_comes_first_and_without_files_rows_are_made(tmp_path):
    write(tmp_path, "niah_single_1", [niah_row("1234567")])
    write(tmp_path, "niah_single_1", [niah_row("7654321")], length=1024)
    (record,) = read(tmp_path, "ruler_niah_single_1", 1)
    assert record.ground_truth["answers"] == ["7654321"]
    (made,) = read(tmp_path, "ruler_niah_multikey_2", 1)
    assert made.example_id == "ruler_niah_multikey_2_1k/0"
