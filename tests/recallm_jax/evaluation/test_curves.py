"""TensorBoard has a run's evaluations, each at the step of the run that its policy has made."""

import json

import pytest

from recallm_jax import evaluate
from recallm_jax.runtime.metrics import read_metrics
from tests.oracles.event_files import curves
from tests.oracles.tiny_run import CONFIG

TASK = "evaluation/retrieval_val_256/constrained-greedy"


def test_a_run_leaves_its_steps_and_evaluations(trained_run):
    found = curves(trained_run / "tensorboard")
    rows = [row for row in read_metrics(trained_run / "metrics.jsonl") if row["stage"] == "grpo"]
    assert found["grpo/reward"] == [
        (row["step"], pytest.approx(row["reward"], rel=1e-6)) for row in rows
    ]
    found = curves(trained_run / "tensorboard" / "evaluation")
    wanted = []
    # Two steps in each stage.
    for step, label in [(0, "start"), (4, "cold_start"), (6, "grpo")]:
        rows = json.loads((trained_run / "eval" / label / "summary.json").read_text())
        (row,) = (row for row in rows if row["task"] == "recallm_retrieval_val_256")
        wanted.append((step, pytest.approx(row["completion_tokens"], rel=1e-6)))
    assert found[f"{TASK}/completion_tokens"] == wanted
    assert {f"{TASK}/{name}" for name in ("exact_match", "reward", "spans")} <= found.keys()


def test_another_evaluation_adds_its_point(copied_run):
    arguments = [*CONFIG, f"--workdir={copied_run}", "--checkpoints=grpo/1"]
    assert evaluate.main(arguments) == 0
    found = curves(copied_run / "tensorboard" / "evaluation")
    assert [step for step, _ in found[f"{TASK}/exact_match"]] == [0, 4, 5, 6]
    assert len(list((copied_run / "tensorboard" / "evaluation").iterdir())) == 1


def test_results_elsewhere_have_curves_of_their_own(copied_run, tmp_path):
    arguments = [*CONFIG, f"--workdir={copied_run}", f"--results={tmp_path}", "--label=start"]
    assert evaluate.main(arguments) == 0
    found = curves(tmp_path / "tensorboard" / "evaluation")
    assert [step for step, _ in found[f"{TASK}/exact_match"]] == [0]
