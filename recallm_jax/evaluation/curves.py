"""Evaluations as curves over the steps of a run: points for TensorBoard and other trackers."""

import json
import os

from etils import epath

from recallm_jax.config.kept import kept_config, kept_policy
from recallm_jax.evaluation.files import SUMMARY
from recallm_jax.evaluation.summaries import Row
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.tensorboard import FOLDER, Point, event_file
from storage.files import Path, is_remote, read_text

EVALUATION = "evaluation"
_MEASURED = ("exact_match", "reward", "finished", "completion_tokens", "spans", "verbatim_spans")


def write_curves(results: Path) -> None:
    """Write an event file with all evaluations of a folder that has `eval/LABEL`.

    It takes the place of the earlier one, so that it says what the summaries say. A summary that
    can't be read is left out: its evaluation writes it again.
    """
    points = []
    for folder in sorted((results / "eval").iterdir()):
        try:
            points.append(evaluation_point(folder, json.loads(read_text(folder / SUMMARY))))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    events = event_file(results / FOLDER / EVALUATION, sorted(points, key=lambda point: point.step))
    if events is not None:
        events.close()


def evaluation_point(folder: Path, summaries: list[Row]) -> Point:
    """Return the point of one evaluation: its step counts from the start of the run.

    A curve is named by the task, the mode and what is measured, such as
    "evaluation/retrieval_val_1024/constrained-greedy/exact_match".

    Args:
      folder: that of the evaluation, which keeps its config and the name of its policy.
    """
    values: dict[str, float] = {}
    for row in summaries:
        name = f"{EVALUATION}/{row['task'].removeprefix('recallm_')}/{row['mode']}"
        measured = {field: row[field] for field in _MEASURED} | row.get("metrics", {})
        values |= {f"{name}/{field}": float(value) for field, value in measured.items()}
    return Point(_step(folder), _written(folder / SUMMARY), values)


def _written(path: Path) -> float:
    """Return when a file was written, in seconds since 1970."""
    # etils asks for the owner's name too, which a container may not know.
    return float(epath.Path(path).stat().mtime if is_remote(path) else os.stat(path).st_mtime)


def _step(folder: Path) -> int:
    """Return the steps of all stages that led to the policy of an evaluation.

    The config of an evaluation need not have the stage of its policy; then the stage's own count.
    """
    stage, _, step = (kept_policy(folder) or "").partition(" step ")
    if not step:
        return 0
    try:
        config = kept_config(folder)
        before = config.stages[: config.stages.index(stage)]
    except (UserError, ValueError):
        return int(step)
    return sum(config[name].steps for name in before) + int(step)
