"""Examples: spans beside their sources, escaped marks, and which prompts are chosen."""

import html
import re

import pytest

from recallm_jax.reporting.data import load_run
from recallm_jax.reporting.examples import Mark, choose_examples, highlight, make_example
from tests.oracles.fake_run import write_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "my_run"
    write_run(folder, examples=6)
    return folder


def test_a_span_that_is_not_a_copy_is_marked(workdir):
    rows = load_run(workdir).rows
    row = next(r for r in rows if r["spans"] and not r["spans"][0]["verbatim"])
    example = make_example("k", row)
    assert example.sources[0].excerpts == []
    assert 'class="span wrong"' in example.completion
    assert "<mark" not in example.prompt


def test_an_excerpt_holds_the_source_and_few_lines_around(workdir):
    row = next(r for r in load_run(workdir).rows if r["spans"] and r["exact_match"])
    (((first, last), excerpt),) = make_example("k", row).sources[0].excerpts
    text = re.sub("<sup>1</sup>", "", str(excerpt)).strip("…")
    text = html.unescape(re.sub("<[^>]*>", "", text))
    assert row["prompt"][first:last] == row["spans"][0]["text"]
    assert row["spans"][0]["text"] in text
    assert text in row["prompt"]
    assert text.count("\n") <= 5


def test_overlapping_marks_keep_the_text():
    marks = [
        Mark(0, 4, 1, "a", "x", "#1"),
        Mark(2, 6, 2, "b", "y", ""),
        Mark(6, 99, 3, "c", "", ""),
    ]
    marked = str(highlight("ab<d|efgh", marks))
    assert html.unescape(re.sub("<sup>.</sup>|<[^>]*>", "", marked)) == "ab<d|efgh"
    assert [marked.count(f"<sup>{n}</sup>") for n in (1, 2, 3)] == [1, 1, 1]


def test_control_tokens_are_dimmed_and_escaped():
    assert highlight("<|im_end|>x", []) == '<span class="control">&lt;|im_end|&gt;</span>x'


def test_examples_show_changed_answers_first_for_every_policy(workdir):
    run = load_run(workdir)
    groups = choose_examples(run, 2)
    assert len(groups) == 2 * 4 * 2
    assert all([row["label"] for row in rows] == run.labels for rows in groups)
    first = groups[0]
    assert (first[0]["exact_match"], first[-1]["exact_match"]) == (0.0, 1.0)
