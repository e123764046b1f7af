"""Evaluations as curves over the steps of a run: points for TensorBoard and other trackers."""

import json

from etils import epath

from recallm_jax.config.kept import kept_config, kept_policy
from recallm_jax.evaluation.files import SUMMARY
from recallm_jax.evaluation.summaries import Row
from recallm_jax.runtime.tensorboard import FOLDER, Point, event_file
from storage.files import Path, read_text

EVALUATION = "evaluation"
_MEASURED = ("exact_match", "reward", "finished", "completion_tokens", "spans", "verbatim_spans")


def write_curves(run: Path, results: Path) -> None:
    """Write an event file with all evaluations of a folder that has `eval/LABEL`.

    It takes the place of the earlier one, so that it says what the summaries say.

    Args:
      run: the workdir of the run, whose config says which steps came before a stage.
    """
    points = [
        evaluation_point(run, folder, json.loads(read_text(folder / SUMMARY)))
        for folder in sorted((results / "eval").iterdir())
        if (folder / SUMMARY).exists()
    ]
    points.sort(key=lambda point: point.step)
    events = event_file(results / FOLDER / EVALUATION, points)
    if events is not None:
        events.close()


def evaluation_point(run: Path, folder: Path, summaries: list[Row]) -> Point:
    """Return the point of one evaluation: its step counts from the start of the run.

    A curve is named by the task, the mode and what is measured, such as
    "evaluation/retrieval_val_1024/constrained-greedy/exact_match".

    Args:
      folder: that of the evaluation, which keeps the name of its policy.
    """
    values: dict[str, float] = {}
    for row in summaries:
        name = f"{EVALUATION}/{row['task'].removeprefix('recallm_')}/{row['mode']}"
        measured = {field: row[field] for field in _MEASURED} | row.get("metrics", {})
        values |= {f"{name}/{field}": float(value) for field, value in measured.items()}
    written = float(epath.Path(folder / SUMMARY).stat().mtime)
    return Point(_step(run, folder), written, values)


def _step(run: Path, folder: Path) -> int:
    """Return the steps of all stages that led to the policy of an evaluation."""
    stage, _, step = (kept_policy(folder) or "").partition(" step ")
    if not step:
        return 0
    config = kept_config(run)
    before = config.stages[: config.stages.index(stage)]
    return sum(config[name].steps for name in before) + int(step)
