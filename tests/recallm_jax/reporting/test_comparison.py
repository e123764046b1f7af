"""Comparing runs: pooling over seeds, by hand."""

import dataclasses
import json
import statistics

import pytest

from recallm_jax.reporting import comparison
from recallm_jax.reporting.data import load_run
from tests.oracles.fake_run import write_run


def write_rewards(folder, rewards, stage="grpo"):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"stage": stage, "step": step, "reward": reward, "exact_match": reward / 2}
        for step, reward in enumerate(rewards)
    ]
    text = "".join(json.dumps(row | {"time": 1.0}) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    return load_run(folder)


def test_the_steps_of_all_runs_of_a_setting_are_pooled(tmp_path):
    one = write_rewards(tmp_path / "one", [0.1, 0.3, 0.0, 0.0, 0.5, 0.7])
    # A run of another length has thirds of its own.
    two = write_rewards(tmp_path / "two", [0.2, 0.2, 0.2, 0.0, 0.0, 0.0, 0.9, 0.8, 0.7], "ppo")
    (header, line) = comparison.reward_table({"both": [one, two]})
    assert header[:3] == ["setting", "runs", "steps"]
    first, last = [0.1, 0.3, 0.2, 0.2, 0.2], [0.5, 0.7, 0.9, 0.8, 0.7]
    assert line[:5] == ["both", "2", "6/9", f"{0.2:.3f}", f"{statistics.fmean(last):.3f}"]
    assert line[5].startswith(f"{statistics.fmean(last) - statistics.fmean(first):+.3f} (")


def test_a_run_too_short_for_a_comparison_says_so(tmp_path):
    run = write_rewards(tmp_path / "short", [0.1, 0.2, 0.3, 0.4, 0.5])
    assert comparison.reward_table({"short": [run]})[1] == [
        "short",
        "1",
        "5",
        "too few steps",
        "",
        "",
    ]


def test_curves_are_averaged_over_the_runs_that_have_the_step():
    points = comparison.mean_curve([[(0, 1.0), (1, 2.0)], [(0, 3.0)]])
    assert points == [(0, 2.0, pytest.approx(1.0)), (1, 2.0, 0.0)]


def test_prompts_of_each_seed_count_but_their_questions_once(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, examples=4)
    runs = [load_run(tmp_path / name) for name in ("a", "b")]
    rows = [row for row in runs[0].rows if row["mode"] == "constrained-greedy"]
    for last, label in ((False, "start"), (True, "grpo")):
        found = comparison.pooled(runs, "constrained-greedy", last=last)
        of_one = [row["exact_match"] for row in rows if row["label"] == label]
        assert (found.n, found.questions) == (2 * len(of_one), len(of_one))
        assert found.share == pytest.approx(statistics.fmean(of_one))
        assert found.low <= found.share <= found.high


def test_prompts_are_compared_with_themselves(tmp_path):
    write_run(tmp_path / "a", examples=4)
    run = load_run(tmp_path / "a")
    mode = "constrained-greedy"
    kept = [row for row in run.rows if row["mode"] == mode and row["label"] in ("start", "grpo")]
    names = {}
    for row in kept:
        number = names.setdefault((row["task"], row["example_id"]), len(names))
        # Two are gained, one is lost, the others are half right in both.
        right = [(0, 1), (0, 1), (1, 0)][number] if number < 3 else (0.5, 0.5)
        row["exact_match"] = right[row["label"] == "grpo"]
    run = dataclasses.replace(run, rows=kept)
    # A second run that asks the same is no second trial.
    assert comparison.paired([run, run], mode) == (2, 1)
    # A prompt that only one of the two has answered is left out.
    first = next(iter(names))
    answered = [
        row for row in kept if row["label"] == "start" or (row["task"], row["example_id"]) != first
    ]
    assert comparison.paired([dataclasses.replace(run, rows=answered)], mode) == (1, 1)
    line = comparison.score_table({"one": [run]})[1]
    assert line[-3:] == ["2", "1", "1"]
    # A policy is not compared with itself.
    start = dataclasses.replace(run, rows=[row for row in kept if row["label"] == "start"])
    assert comparison.score_table({"one": [start]})[1][-3:] == ["", "", ""]


def test_a_question_counts_by_the_mean_of_its_prompts(tmp_path):
    write_run(tmp_path / "a", examples=3)
    run, mode = load_run(tmp_path / "a"), "constrained-greedy"
    asked = {"recallm_retrieval_val_320/0": "one", "recallm_retrieval_val_320/1": "one"}
    asked["recallm_retrieval_val_320/2"] = "two"
    rows = []
    for row in run.rows:
        if row["mode"] == mode and row["label"] in ("start", "grpo") and row["example_id"] in asked:
            number = list(asked).index(row["example_id"])
            # One prompt of the first question is gained and one is lost; the second is gained.
            before, after = [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)][number]
            row["exact_match"] = after if row["label"] == "grpo" else before
            row["ground_truth"]["question_id"] = asked[row["example_id"]]
            rows.append(row)
    assert len(rows) == 6
    assert comparison.paired([dataclasses.replace(run, rows=rows)], mode) == (1, 0)


def test_a_run_with_an_unfinished_last_evaluation_is_shown_up_to_there(tmp_path):
    write_run(tmp_path / "a", examples=4)
    for path in (tmp_path / "a" / "eval" / "grpo").glob("*.unconstrained-greedy.jsonl"):
        path.unlink()
    header, *rows = comparison.score_table({"one": [load_run(tmp_path / "a")]})
    ends = {row[1]: row[5] for row in rows}
    assert ends["unconstrained-greedy"] == "not evaluated"
    assert ends["constrained-greedy"].endswith(")")
    assert {len(row) for row in rows} == {len(header)}
