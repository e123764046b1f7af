"""A policy's responses to records: prompts enter as others finish, or in fixed batches."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from decoding.decode_loop import SAMPLED, Limits
from decoding.driver import decode
from decoding.policy import Policy
from decoding.sampling import row_keys
from decoding.scheduler import Request, decode_all
from recallm_jax.data.arrays import prompt_text, prompts_and_texts
from recallm_jax.evaluation.rows import Answered
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import Mode
from recallm_jax.runtime import processes
from rl.batch import PromptText
from rl.rollout_text import read_rollout
from tasks.prompts.record import Record

# The beginnings of the responses to a record, G of them, by its example id.
Prefixes = Mapping[str, Sequence[Sequence[int]]]
# Prompts are padded to multiples of this, or of an eighth of the target: few sizes are compiled.
PADDED = 128


@dataclasses.dataclass(frozen=True)
class Asked:
    """Records that a policy answers, and the sizes of their prompts and responses.

    Attributes:
      title: the name of this work on the console.
      length: the number of tokens that all prompts are padded to.
      max_new_tokens: the longest response, its prefix included.
      batch_size: the number of prompts that are decoded at the same time.
      prefixes: given beginnings of responses; None leaves them out.
    """

    title: str
    records: Sequence[Record]
    mode: Mode
    length: int
    max_new_tokens: int
    batch_size: int
    prefixes: Prefixes | None = None


def padded_length(longest: int, target_length: int) -> int:
    """Return the length that a task's prompts are padded to: about that of its longest one.

    Documents may be much shorter than the target, and a benchmark's rows longer in our tokens than
    in those of its tokenizer. Lengths are few, since programs are compiled for each.
    """
    multiple = max(PADDED, target_length // 8)
    rounded = -longest // multiple * -multiple
    return rounded if longest > target_length else min(rounded, target_length)


def respond(
    config: ConfigDict, context: Context, policy: Policy, asked: Asked
) -> Iterator[Answered]:
    """Yield each record with its responses as soon as they are decoded, in any order.

    Responses depend on their prompt alone; on the way of decoding they depend only through float
    rounding. If the policy lies on several processes, all of them yield all records.

    Raises:
      UserError: a prompt is longer than `asked.length`, or has no token that may be copied.
    """
    parts = context.mesh.shape["data"] * context.mesh.shape["fsdp"]
    if parts == 1 and not processes.several(context.mesh) and asked.prefixes is None:
        return _one_by_one(config, context, policy, asked)
    # Over several parts of a mesh a prompt that enters alone would be prefilled by each of them.
    return _in_batches(config, context, policy, asked)


def _one_by_one(
    config: ConfigDict, context: Context, policy: Policy, asked: Asked
) -> Iterator[Answered]:
    mode, limits = asked.mode, _limits(context, asked)
    texts = [prompt_text(record, asked.length) for record in asked.records]

    def requests() -> Iterator[Request]:
        for record, text in zip(asked.records, texts, strict=True):
            (keys,) = _keys(config, [text], mode)
            yield Request(record.inputs, record.copyable, record.span_start, record.span_end, keys)

    finished = decode_all(
        policy,
        requests(),
        buckets=(asked.length,),
        num_slots=asked.batch_size,
        sampling=mode.sampling,
        limits=limits,
        log=lambda line: context.console.say(f"{asked.title}: {line}"),
    )
    for one in finished:
        read = read_rollout(one.rollout, limits, context.tokenizer.decode)
        yield Answered(asked.records[one.number], texts[one.number], read, 0)


def _in_batches(
    config: ConfigDict, context: Context, policy: Policy, asked: Asked
) -> Iterator[Answered]:
    mode, size, limits = asked.mode, asked.batch_size, _limits(context, asked)
    for start in range(0, len(asked.records), size):
        batch = list(asked.records[start : start + size])
        # A smaller last batch is filled up, so that nothing is compiled for its size.
        filled = batch + [batch[0]] * (size - len(batch))
        prompts, texts = prompts_and_texts(filled, asked.length)
        keys, prefix = _keys(config, texts, mode), _prefix(asked, filled)
        prompts, keys, prefix = context.place((prompts, keys, prefix))
        rollout = decode(
            policy, prompts, keys, sampling=mode.sampling, limits=limits, prefix=prefix
        )
        read = read_rollout(rollout, limits, context.tokenizer.decode, processes.fetch)
        for number, record in enumerate(batch):
            yield Answered(record, texts[number], read, number)


def _limits(context: Context, asked: Asked) -> Limits:
    return Limits(asked.mode.rules, asked.max_new_tokens, context.tokenizer.end_ids)


def _keys(config: ConfigDict, texts: Sequence[PromptText], mode: Mode) -> Key[Array, "B G"]:
    numbers = np.array([text.number for text in texts], np.uint32)
    return row_keys(config.seed, 0, numbers, mode.group_size)


def _prefix(asked: Asked, records: Sequence[Record]) -> Int[np.ndarray, "B G P"] | None:
    """Return the prefixes of records, padded with SAMPLED to the longest of all asked records."""
    if asked.prefixes is None:
        return None
    width = max(len(prefix) for group in asked.prefixes.values() for prefix in group)
    padded = np.full((len(records), asked.mode.group_size, width), SAMPLED, np.int32)
    for rows, record in zip(padded, records, strict=True):
        for row, prefix in zip(rows, asked.prefixes[record.example_id], strict=True):
            row[: len(prefix)] = prefix
    return padded
