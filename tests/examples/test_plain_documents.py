"""The plain documents: every question has its evidence, and the two files share no document."""

import importlib.util
import json
import pathlib

import pytest

from tasks.datasets.own_questions import Reading, parse

FOLDER = pathlib.Path("examples/plain_documents")
FILES = {"train": 200, "held_out": 50}


@pytest.fixture(scope="module")
def to_jsonl():
    spec = importlib.util.spec_from_file_location("to_jsonl", FOLDER / "to_jsonl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_rows_are_read_as_questions_with_their_evidence(to_jsonl, tmp_path, capsys):
    to_jsonl.main(str(tmp_path))
    for name, split in to_jsonl.SPLITS.items():
        lines = (tmp_path / f"own_questions_{split}.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == FILES[name]
        for row in map(json.loads, lines):
            reading = parse(row)
            assert isinstance(reading, Reading)
            quotes = [reading.document[slice(*part)] for part in reading.evidence]
            assert len(quotes) == len(row["evidence"])
            assert any(row["answers"][0] in quote for quote in quotes)


def test_no_document_is_in_both_files_and_none_is_left_over():
    used = {
        name: {
            json.loads(line)["document_file"]
            for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()
        }
        for name in FILES
    }
    assert not used["train"] & used["held_out"]
    there = {f"documents/{path.name}" for path in (FOLDER / "documents").iterdir()}
    assert used["train"] | used["held_out"] == there
