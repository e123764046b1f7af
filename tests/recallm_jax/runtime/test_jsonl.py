"""Files of a run read back: damaged rows are named, and a summary is whole or as it was."""

import json
from pathlib import Path

import pytest

from recallm_jax.evaluation.files import read_rows
from recallm_jax.evaluation.rescore import rescore
from recallm_jax.evaluation.summaries import summarise
from recallm_jax.runtime.errors import UserError
from tests.oracles.fake_run import write_run
from tests.oracles.reward_rules import EVAL


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, examples=2)
    return tmp_path / "eval" / "grpo"


def spoil(folder, line):
    path = sorted(folder.glob("*.jsonl"))[0]
    first = path.read_text(encoding="utf-8").split("\n")[0]
    path.write_text(f"{first}\n{line(json.loads(first))}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (lambda row: "{", "is damaged (Expecting property name"),
        (lambda row: "5", "is damaged ('5' is not a row)"),
        (lambda row: '{"example_id": 3}', "is damaged ('example_id' can't be '3')"),
        (lambda row: json.dumps(row | {"completion": None}), "'completion' can't be 'None'"),
        (lambda row: json.dumps(row | {"spans": [{}]}), "has a damaged span (it has no 'text')"),
    ],
)
def test_a_damaged_row_is_named_with_its_line(folder, line, message):
    path = spoil(folder, line)
    for read in (lambda: read_rows(path), lambda: rescore(folder, EVAL)):
        with pytest.raises(UserError) as caught:
            read()
        assert f"{path}, line 2 " in str(caught.value) and message in str(caught.value)
        assert str(caught.value).endswith("; delete that line, or the file")


def test_a_line_cut_short_is_not_a_row(folder):
    path = sorted(folder.glob("*.jsonl"))[0]
    rows = read_rows(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"example_id": "x')
    assert read_rows(path) == rows


def test_scoring_again_counts_the_prompts_that_were_counted(folder):
    """An evaluation of fewer examples leaves the other rows in their files."""
    summaries = rescore(folder, EVAL)
    assert {row["n"] for row in summaries} == {2}
    first, *others = summaries
    fewer = [first | {"n": 1}, *others]
    (folder / "summary.json").write_text(json.dumps(fewer))
    rows = read_rows(folder / f"{first['task']}.{first['mode']}.jsonl")
    assert rescore(folder, EVAL)[0] == summarise(rows[:1])
    assert len(read_rows(folder / f"{first['task']}.{first['mode']}.jsonl")) == len(rows) == 2
    (folder / "summary.json").write_text(json.dumps(others))
    assert rescore(folder, EVAL) == others
    (folder / "summary.json").unlink()
    assert rescore(folder, EVAL) == summaries


def test_a_summary_that_cannot_be_written_leaves_the_previous_one(folder, monkeypatch):
    rescore(folder, EVAL)
    before = (folder / "summary.json").read_text()
    real = Path.write_text

    def full(path, text, **options):
        if path.name.startswith("summary"):
            real(path, text[:9], **options)
            raise OSError(28, "No space left on device", str(path))
        return real(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        rescore(folder, EVAL)
    assert (folder / "summary.json").read_text() == before
