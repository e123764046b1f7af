"""A check, without a model, whether an evaluation already has all its rows."""

import json

from ml_collections import ConfigDict

from recallm_jax.config.kept import check_kept
from recallm_jax.evaluation.files import HELD, SUMMARY, read_rows, whole_prompts
from recallm_jax.evaluation.loop import Evaluated
from recallm_jax.evaluation.summaries import Row
from recallm_jax.evaluation.tasks import evaluation_tasks
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import sampling_of
from recallm_jax.runtime import processes
from storage.files import Path, read_text


def complete_summaries(
    config: ConfigDict, context: Context, evaluated: Evaluated
) -> list[Row] | None:
    """Return the summaries of an evaluation that has all its rows; None if there may be more.

    Raises:
      UserError: another config or policy made them.
    """
    rows = None
    if context.leads:
        check_kept(config, evaluated.folder, **HELD, policy=evaluated.made_by)
        rows = _complete(evaluated.folder, config)
    return json.loads(processes.text_of_leader(json.dumps(rows), context.mesh))


def _complete(folder: Path, config: ConfigDict) -> list[Row] | None:
    count = config.evaluation.num_examples
    try:
        rows = json.loads(read_text(folder / SUMMARY))
        found = {(row["task"], row["mode"]): (row["n"], row["samples"]) for row in rows}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    samples = {mode: sampling_of(mode, config)[2] for mode in config.evaluation.modes}
    tasks = [task.name for task in evaluation_tasks(config)]
    if found != {(task, mode): (count, samples[mode]) for task in tasks for mode in samples}:
        return None
    for task, mode in found:
        there = whole_prompts(read_rows(folder / f"{task}.{mode}.jsonl"), samples[mode])
        if len({row["example_id"] for row in there}) < count:
            return None
    return rows
