"""Joining the shards of an evaluation, without a model, once all their rows are there."""

from ml_collections import ConfigDict

from recallm_jax.config.kept import check_kept, keep_config, kept_policy
from recallm_jax.evaluation.files import (
    HELD,
    rows_elsewhere,
    write_in_order,
    write_summaries,
)
from recallm_jax.evaluation.shards import Examples, read_examples, shard_folders
from recallm_jax.evaluation.summaries import Row, summarise
from recallm_jax.evaluation.tasks import evaluation_tasks
from recallm_jax.policy.modes import sampling_of
from recallm_jax.runtime.errors import UserError
from storage.files import Path


def merge(folder: Path, config: ConfigDict, *, by: str = "") -> tuple[list[Row], list[str]]:
    """Write the rows of all shards as an evaluation in one process would have, and its summary.

    Nothing is written before all rows are there, and the shards' folders stay as they are. Several
    processes may join at the same time: they write the same.

    Args:
      by: a name for this process, if several may join.

    Returns:
      The summaries, and a line for each thing that is missing; one of the two is empty.

    Raises:
      UserError: there are no shards, or several configs or policies made them.
    """
    shards = shard_folders(folder)
    if not shards:
        raise UserError(f"{folder} holds no shards; evaluate with --shard=i/n first")
    policy = kept_policy(shards[0])
    for shard in shards:
        check_kept(config, shard, **HELD, policy=policy)
    examples = _examples(shards)
    joined, missing = {}, []
    for task in (task.name for task in evaluation_tasks(config)):
        for mode in config.evaluation.modes:
            path = folder / f"{task}.{mode}.jsonl"
            samples = sampling_of(mode, config)[2]
            # The rows of the evaluation's own file come first: they may have been rescored.
            rows = rows_elsewhere(folder, shards[0] / "none" / path.name, samples=samples, known=())
            ids = examples.get(task, [])
            left = set(ids) - {row["example_id"] for row in rows}
            if left or not ids:
                missing.append(
                    f"{task} {mode} lacks {len(left)} of {len(ids)} prompts"
                    if ids
                    else f"{task} is not begun"
                )
            joined[path] = (ids, rows)
    if missing:
        return [], missing
    keep_config(config, folder, **HELD, policy=policy, by=by)
    summaries = [
        summarise(write_in_order(path, ids, rows, by=by)) for path, (ids, rows) in joined.items()
    ]
    write_summaries(folder, summaries, by=by)
    return summaries, []


def _examples(shards: list[Path]) -> Examples:
    """Return the records of each task, in which all shards must agree."""
    examples: Examples = {}
    for shard in shards:
        for task, ids in read_examples(shard).items():
            if examples.setdefault(task, ids) != ids:
                raise UserError(
                    f"{shard} has {len(ids)} records of {task}, another shard "
                    f"{len(examples[task])}; run all shards with one evaluation.num_examples, or "
                    "delete the folders of those that are not wanted"
                )
    return examples
