"""Evaluating a policy on validation tasks: one JSONL row a response, and a summary."""

import dataclasses
import functools

from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.config.kept import check_kept, keep_config
from recallm_jax.config.rewards import evaluation_rewards
from recallm_jax.evaluation.files import (
    HELD,
    keep_whole,
    read_rows,
    rows_elsewhere,
    write_in_order,
    write_summaries,
)
from recallm_jax.evaluation.respond import Asked, padded_length
from recallm_jax.evaluation.rows import Answered, response_rows
from recallm_jax.evaluation.shards import SHARDS, Shard, note_examples, shard_folders
from recallm_jax.evaluation.sheet import Sheet, answer_missing
from recallm_jax.evaluation.summaries import Row, summarise
from recallm_jax.evaluation.tasks import EvaluationTask, evaluation_tasks
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import decoding_mode
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.runtime.errors import UserError
from rl.rewards.rule import RewardRule
from storage.files import Path
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A policy that is evaluated, and the folder of its rows.

    Attributes:
      label: the name of the policy in the rows, such as "start" or "grpo".
      made_by: its checkpoint, such as "grpo step 20"; a folder holds the rows of one.
      folder: holds the rows and the summary.
    """

    label: str
    made_by: str
    folder: Path


def evaluate(
    config: ConfigDict,
    context: Context,
    policy: Policy,
    evaluated: Evaluated,
    shard: Shard | None = None,
) -> list[Row]:
    """Evaluate every data set at every length in every mode of the config.

    Rows that the folder already holds are kept, so that an interrupted evaluation goes on. Rows of
    a prompt are written as soon as all its responses are there; in the end they are in the order
    of the records. If several processes share the mesh, all evaluate together, and the leading
    one writes.

    Args:
      shard: the part of the records that this process answers alone, into a folder of its own.

    Returns:
      A summary row for each task and mode; also written to `summary.json`. For a shard, and in
      processes that do not lead, the list is empty.

    Raises:
      UserError: the folder holds rows that another config or policy made, or a task is empty.
    """
    with context.writing(_kept_in(evaluated, shard)):
        return _evaluate(config, context, policy, evaluated, shard)


def _kept_in(evaluated: Evaluated, shard: Shard | None) -> Path:
    """Return the folder that the rows are written to."""
    return evaluated.folder if shard is None else evaluated.folder / SHARDS / shard.name


def _evaluate(
    config: ConfigDict,
    context: Context,
    policy: Policy,
    evaluated: Evaluated,
    shard: Shard | None,
) -> list[Row]:
    folder, kept_in = evaluated.folder, _kept_in(evaluated, shard)
    if context.leads:
        for held in (*shard_folders(folder), folder):
            check_kept(config, held, **HELD, policy=evaluated.made_by)
        keep_config(config, kept_in, **HELD, policy=evaluated.made_by)
    policy, rewards = for_rollout(policy), evaluation_rewards(config)
    modes = [decoding_mode(name, config, context.tokenizer) for name in config.evaluation.modes]
    summaries = []
    for task in evaluation_tasks(config):
        records = _records(task, context.tokenizer)
        longest = max(len(record.inputs) for record in records)
        if shard is not None:
            note_examples(kept_in, task.name, records)
        for mode in modes:
            asked = Asked(
                title=f"{evaluated.label}: {task.name} {mode.name}",
                records=records if shard is None else shard.of(records),
                mode=mode,
                length=padded_length(longest, task.length),
                max_new_tokens=task.max_new_tokens,
                batch_size=config.evaluation.batch_size,
            )
            names: Row = {"mode": mode.name, "label": evaluated.label}
            names |= {"task": task.name, "target_length": task.length}
            path = kept_in / f"{task.name}.{mode.name}.jsonl"
            made = functools.partial(_rows, context.tokenizer, rewards, names)
            sheet = Sheet(path, asked, made)
            rows = _rows_there(folder, sheet) if context.leads else []
            rows = answer_missing(config, context, policy, sheet, rows)
            if context.leads and shard is None:
                ids = [record.example_id for record in records]
                summaries.append(summarise(write_in_order(path, ids, rows)))
    if context.leads and shard is None:
        write_summaries(folder, summaries)
    return summaries


def _records(task: EvaluationTask, tokenizer: Tokenizer) -> list[Record]:
    records = task.records(tokenizer)
    if not records:
        raise UserError(
            f"task {task.name} has no prompts; leave its length out of config.evaluation."
            "lengths, or its suite out of config.evaluation.suites"
        )
    return records


def _rows(tokenizer: Tokenizer, rewards: RewardRule, names: Row, answered: Answered) -> list[Row]:
    return [row | names for row in response_rows(answered, tokenizer, rewards)]


def _rows_there(folder: Path, sheet: Sheet) -> list[Row]:
    """Return the rows of whole prompts, in the sheet's file, the evaluation's and its shards'."""
    path, samples = sheet.path, sheet.asked.mode.group_size
    rows = keep_whole(path, read_rows(path), samples)
    return rows + rows_elsewhere(folder, path, samples=samples, known=rows)
