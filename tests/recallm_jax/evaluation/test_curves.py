"""TensorBoard has a run's evaluations, each at the step of the run that its policy has made."""

import json

import pytest

from recallm_jax import evaluate
from recallm_jax.evaluation.curves import write_curves
from recallm_jax.runtime.metrics import read_metrics
from storage import files
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


def put(results, label, summary, **config):
    folder = results / "eval" / label
    files.make_folder(folder)
    (folder / "summary.json").write_text(summary)
    (folder / "config.json").write_text(json.dumps(config))


def rows(share):
    measured = {"exact_match": share, "reward": 0, "finished": 1, "completion_tokens": 9}
    names = {"task": "recallm_a_val_8", "mode": "m", "spans": 0, "verbatim_spans": 0}
    return json.dumps([names | measured | {"metrics": {"f1": 0.5}}])


@pytest.mark.parametrize("where", ["local", "gs"])
def test_labels_that_cannot_be_placed_or_read_are_in_nobodys_way(where, request, tmp_path):
    results = tmp_path
    if where == "gs":
        results = files.as_path(request.getfixturevalue("bucket"))
    put(results, "start", rows(0.0), policy="start")
    # Of a run whose config is not here: the stage's own steps.
    put(results, "mine", rows(0.75), policy="grpo step 7")
    put(results, "cut", "[{", policy="grpo step 9")
    put(results, "odd", '{"a": 1}', policy="grpo step 9")
    write_curves(results)
    write_curves(results)
    (events,) = (results / "tensorboard" / "evaluation").glob("*")
    local = tmp_path / "events"
    local.mkdir()
    (local / events.name).write_bytes(events.read_bytes())
    found = curves(local)
    assert found["evaluation/a_val_8/m/exact_match"] == [(0, 0.0), (7, 0.75)]
    assert found["evaluation/a_val_8/m/f1"] == [(0, 0.5), (7, 0.5)]


def test_an_owner_without_a_name_is_no_fault(tmp_path, monkeypatch):
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    put(tmp_path, "start", rows(0.0), policy="start")
    write_curves(tmp_path)
    assert curves(tmp_path / "tensorboard" / "evaluation")


def test_rescored_rows_move_their_points(copied_run):
    arguments = [*CONFIG, f"--workdir={copied_run}", "--rescore", "--label=grpo"]
    assert (
        evaluate.main(
            [
                *arguments,
                "--config.reward.format_weight=1.0",
                "--config.reward.sum_weight=0.0",
                "--config.reward.product_weight=0.0",
            ]
        )
        == 0
    )
    rows = json.loads((copied_run / "eval" / "grpo" / "summary.json").read_text())
    (row,) = (row for row in rows if row["task"] == "recallm_retrieval_val_256")
    found = curves(copied_run / "tensorboard" / "evaluation")
    assert found[f"{TASK}/reward"][-1] == (6, pytest.approx(row["reward"], rel=1e-6))
