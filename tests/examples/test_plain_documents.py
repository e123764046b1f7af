"""The plain documents: every question has its evidence, and the two splits share no document."""

import pathlib

import pytest

from tasks.datasets.own_questions import SOURCE, Reading
from tasks.sources.table import read_rows, read_table

FOLDER = pathlib.Path("examples/plain_documents")
SPLITS = {"train": 200, "validation": 50}


def rows(split: str) -> list[dict]:
    return list(read_rows(str(FOLDER / f"own_questions_{split}.jsonl")))


@pytest.mark.parametrize("split", SPLITS)
def test_every_question_is_read_with_its_evidence(split):
    table = read_table(SOURCE, str(FOLDER), split)
    assert not table.skipped and len(table.rows) == SPLITS[split]
    for row, raw in zip(table.rows, rows(split), strict=True):
        assert isinstance(row, Reading) and row.text == raw["question"]
        quotes = [row.document[slice(*part)] for part in row.evidence]
        assert len(quotes) == len(raw["evidence"])
        assert any(raw["answers"][0] in quote for quote in quotes)


def test_no_document_is_in_both_splits_and_none_is_left_over():
    used = {split: {row["document_file"] for row in rows(split)} for split in SPLITS}
    assert not used["train"] & used["validation"]
    there = {f"documents/{path.name}" for path in (FOLDER / "documents").iterdir()}
    assert used["train"] | used["validation"] == there
