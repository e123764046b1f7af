"""HELMET's instructions read from its own file, here a made-up one of the same form."""

import logging

import pytest

from tasks.errors import TaskInputError
from tasks.suites.helmet import passages, wording
from tests.oracles.helmet_files import (
    book,
    csv,
    kilt_files,
    kilt_row,
    kv_row,
    make,
    rank_row,
    story,
    write,
)

# As in HELMET's data.py: a template in each loader, texts around demonstrations in expressions.
SOURCE = r"""
import torch


def load_qa(dataset, path):
    if "bad" in dataset:
        user_template = "Bad words.\n\n{demos}{context}\n\nQuestion: {question}"
    else:
        user_template = "QA words:\nAnswer: [answer]\n\n{demos}{context}\n\nQuestion: {question}"
    system_template = "Answer:"
    demo_template = "{documents}\n\nQuestion: {question}\nAnswer: {answer}"


def load_json_kv(path):
    user_template = "{context}\n\nKV words.\n\n{demos}Key: {question}"


def load_msmarco_rerank(path):
    user_template = "Rank words.\n\n{demos}{context}\n\nQuery: {question}"


def load_icl(dataset):
    user_template = "ICL \"label: {{label}}\" words. \n\n{context}\n\n{question}"


def load_narrativeqa(dataset, shots):
    user_template = "Story words.\n\n{demo}{context}\n\nQuestion: {question}"
    demo = "" if shots == 0 else "Such as:\n\n" + "\n\n".join([]) + "\n\nNow, the story:\n\n"


def load_multi_lexsum(dataset):
    user_template = "Case words.\n\n{demo}Papers:\n{context}\n\nNow sum up the case."
    demo = "Summaries:\n\n" + "x" + "\n\nNow, sum up these.\n"


def load_infbench(dataset):
    if "qa_eng" in dataset:
        user_template = "Book QA words.\n\n{demo}{context}\n\nQuestion: {question}"
    elif "choice_eng" in dataset:
        user_template = "Choice words.\n\n{demo}{context}\n\nQuestion: {question}\n{options}"
    elif "sum_eng" in dataset:
        user_template = "Book words.\n\n{demo}{context}\n\nNow sum up the book."
    temp = "[text]\nQuestion: {question}\nAnswer: {answer[0]}"
    demo = 1
    return {"demo": f"Like:\n\n{demo}\n\nNow, read this:\n\n"}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data.py").write_text(SOURCE)
    return tmp_path


def user_part(record):
    return record.prompt.partition("<|im_start|>user\n")[2] or record.prompt


def test_questions_rankings_and_lookups_have_the_files_words(folder):
    kilt_files(folder, [kilt_row("q")], [kilt_row("d1", 1), kilt_row("d2", 1)])
    (record,) = make(folder, "helmet_kilt_nq")
    assert record.prompt.startswith("QA words:\nAnswer: [answer]\n\nDocument (Title: T0): d")
    assert record.prompt.endswith("q text 1\n\nQuestion: q?\nAnswer:")
    write(folder / "json_kv/test_k105_dep6.jsonl", [kv_row(7)])
    (record,) = make(folder, "helmet_json_kv")
    assert "}\n\nKV words.\n\nKey: k1\nCorresponding value: v1\n\nKey: k2" in record.prompt
    write(folder / "msmarco/test_reranking_data_k50_dep3.jsonl", [rank_row("q", {4: 0, 11: 2})])
    demos = [rank_row("a", {1: 0}), rank_row("b", {9: 1})]
    write(folder / "msmarco/test_reranking_data_k10_dep3.jsonl", demos)
    (record,) = make(folder, "helmet_msmarco_rerank_psg")
    assert record.prompt.startswith("Rank words.\n\n[ID: ")
    csv(folder / "trec_train.csv", "text,coarse_label", [(f"t {n}", str(n % 6)) for n in range(12)])
    csv(folder / "trec_test.csv", "text,coarse_label", [("test", "4")])
    (record,) = make(folder, "helmet_icl_trec_coarse")
    assert record.prompt.startswith('ICL "label: {label}" words. \n\nt ')


def test_books_and_cases_have_the_files_words_around_their_demonstrations(folder):
    write(folder / "narrativeqa/test.jsonl", [story("Once.")])
    write(folder / "narrativeqa/train.jsonl", [story("", f"Demo {n}?") for n in range(2)])
    (record,) = make(folder, "helmet_narrativeqa", long_only=False)
    assert user_part(record).startswith("Story words.\n\nSuch as:\n\nQuestion: Demo ")
    assert "\n\nNow, the story:\n\nOnce.\n\nQuestion: Who?" in record.prompt
    rows = [book(n, answer=["a"], options=["a", "b", "c", "d"]) for n in range(3)]
    for kind in ("qa_eng", "choice_eng", "sum_eng"):
        write(folder / f"infbench/longbook_{kind}.jsonl", rows)
    told = {
        kind: user_part(make(folder, f"helmet_infbench_{kind}", long_only=False)[0])
        for kind in ("qa_eng", "choice_eng", "sum_eng")
    }
    for kind, first in (("qa_eng", "Book QA"), ("choice_eng", "Choice"), ("sum_eng", "Book")):
        assert told[kind].startswith(f"{first} words.\n\nLike:\n\n[text]\n")
        assert "\n\nNow, read this:\n\nBook " in told[kind]
    assert "Now sum up the book." in told["sum_eng"] and "summarise" not in told["sum_eng"]
    case = {"sources": ["One.", "Two."], "summary/short": "S"}
    write(folder / "multi_lexsum/validation.jsonl", [case])
    write(folder / "multi_lexsum/train.jsonl", [{"summary/short": f"S{n}"} for n in range(2)])
    (record,) = make(folder, "helmet_multi_lexsum", long_only=False)
    assert user_part(record).startswith("Case words.\n\nSummaries:\n\nSummary: S")
    assert "\n\nNow, sum up these.\nPapers:\nOne.\n\nTwo.\n\nNow sum up the case." in record.prompt


def test_without_the_file_the_words_are_ours_and_a_line_says_so(tmp_path, caplog):
    wording._say_ours.cache_clear()
    kilt_files(tmp_path, [kilt_row("q")], [kilt_row("d1", 1), kilt_row("d2", 1)])
    with caplog.at_level(logging.WARNING):
        (record,) = make(tmp_path, "helmet_kilt_nq")
    assert record.prompt.startswith(passages.QUESTION)
    assert "helmet_kilt_nq: the instructions are worded by us" in caplog.text


@pytest.mark.parametrize(
    ("source", "message"),
    [("def load_qa(:", "can't be read"), ("x = 1", "has no template for kilt_nq in load_qa")],
)
def test_another_file_of_that_name_is_one_clear_error(tmp_path, source, message):
    (tmp_path / "data.py").write_text(source)
    kilt_files(tmp_path, [kilt_row("q")], [kilt_row("d1", 1), kilt_row("d2", 1)])
    with pytest.raises(TaskInputError, match=message):
        make(tmp_path, "helmet_kilt_nq")


def test_a_file_that_lacks_a_task_is_one_clear_error(folder):
    templates = SOURCE.partition('    elif "sum_eng"')[0]
    (folder / "data.py").write_text(templates)
    rows = [book(n, answer=["a"], options=["a", "b", "c", "d"]) for n in range(3)]
    write(folder / "infbench/longbook_sum_eng.jsonl", rows)
    with pytest.raises(TaskInputError, match="no template for infbench_sum_eng in load_infbench"):
        make(folder, "helmet_infbench_sum_eng", long_only=False)
