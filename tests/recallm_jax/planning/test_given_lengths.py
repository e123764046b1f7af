"""The flag `--response_lengths`: its forms, the files of a run, and errors of one line."""

import json
import re

import pytest

from recallm_jax.planning.given_lengths import given_lengths
from recallm_jax.runtime.errors import UserError


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "sigma"), [("mean:100", "1"), ("mean:100,sigma:0.6", "0.6"), ("sigma:2,mean:1e2", "2")]
)
def test_a_mean_gives_a_log_normal_distribution(text, sigma):
    found = given_lengths(text, 512)
    assert found.mean == pytest.approx(100)
    assert found.about == f"log-normal with mean 100 and sigma {sigma}, cut at 512 tokens"


def test_a_run_gives_the_mean_of_its_steps(tmp_path):
    step = {"stage": "grpo", "time": 1.0}
    write(
        tmp_path / "metrics.jsonl",
        {"stage": "sft2", "step": 0, "time": 0.5, "loss": 1.0},
        {**step, "step": 0, "response_tokens": 20.0},
        {**step, "step": 1, "response_tokens": 40.0},
    )
    # The evaluation is greedy: training's own lengths come first.
    write(tmp_path / "eval" / "start" / "a.jsonl", {"completion_tokens": 3})
    for path in (tmp_path, tmp_path / "metrics.jsonl"):
        found = given_lengths(str(path), 64)
        assert found.mean == pytest.approx(30)
        assert f"(2 steps of {path}; the spread is assumed)" in found.about


def test_rows_of_an_evaluation_give_their_own_lengths(tmp_path):
    folder = tmp_path / "eval" / "grpo"
    write(folder / "a.jsonl", {"completion_tokens": 3}, {"completion_tokens": 90})
    write(folder / "b.jsonl", {"completion_tokens": 5})
    write(tmp_path / "metrics.jsonl", {"stage": "sft1", "step": 0, "time": 1.0, "loss": 1.0})
    for path in (tmp_path, folder):
        found = given_lengths(str(path), 64)
        assert found.mean == pytest.approx(24)
        assert found.longest(10**6) == pytest.approx(64)
        assert found.about == f"those of 3 responses with mean 24, cut at 64 tokens ({path})"
    assert given_lengths(str(folder / "b.jsonl"), 64).mean == 5


FORMS = "give mean:TOKENS, mean:TOKENS,sigma:NUMBER, or a run's metrics.jsonl or folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mean:600",
            "a mean of 600 tokens exceeds the limit of a response, config.decoding.max_new_tokens "
            "= 512; give a lower mean, or raise the limit",
        ),
        ("mean:0", "a mean of 0 tokens is too low; give at least 1"),
        ("mean:-3", "a mean of -3 tokens is too low"),
        ("mean:many", f"'many' is not a number; {FORMS}"),
        ("mean:nan", "'nan' is not a number"),
        ("mean:9,sigma:inf", "'inf' is not a number"),
        ("mean:9,sigma:0", "sigma is the deviation of log lengths; give one above 0, such as 1"),
        ("mean:9,median:3", f"'median:3' is unknown; {FORMS}"),
        ("sigma:1", f"has no mean; {FORMS}"),
        ("no/such/run", f"there is no such file or folder; {FORMS}"),
    ],
)
def test_other_values_are_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=re.escape(f"--response_lengths={text}")) as raised:
        given_lengths(text, 512)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_without_lengths_are_refused(tmp_path):
    write(tmp_path / "metrics.jsonl", {"stage": "sft1", "step": 0, "time": 1.0, "loss": 1.0})
    (tmp_path / "text.txt").write_text("not\nJSON\n", encoding="utf-8")
    for path, message in (
        (tmp_path, f"has no lengths: no step with response_tokens, and no response .* {FORMS}"),
        (tmp_path / "text.txt", f"text.txt does not hold lines of JSON; {FORMS}"),
    ):
        with pytest.raises(UserError, match=message):
            given_lengths(str(path), 512)
    write(tmp_path / "metrics.jsonl", {"step": 0, "response_tokens": 900.0})
    with pytest.raises(UserError, match="a mean of 900 tokens exceeds the limit"):
        given_lengths(str(tmp_path), 512)
