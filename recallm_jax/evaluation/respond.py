"""A policy's responses to records: prompts enter as others finish, or in fixed batches."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from decoding.decode_loop import Limits, decode
from decoding.policy import Policy
from decoding.sampling import row_keys
from decoding.scheduler import Request, decode_all
from recallm_jax.data.arrays import prompt_text, prompts_and_texts
from recallm_jax.policy.modes import Mode
from recallm_jax.runtime import processes
from rl.batch import PromptText
from rl.rollout import RolloutText, read_rollout
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer


@dataclasses.dataclass(frozen=True)
class Answered:
    """A record with its responses, which are group `number` of the rollout."""

    record: Record
    text: PromptText
    rollout: RolloutText
    number: int


def respond(
    policy: Policy,
    tokenizer: Tokenizer,
    config: ConfigDict,
    records: Sequence[Record],
    mode: Mode,
    *,
    length: int,
    max_new_tokens: int,
    place: Callable[[Any], Any],
    log: Callable[[str], None],
    together: bool = False,
) -> Iterator[Answered]:
    """Yield each record with its responses as soon as they are decoded, in any order.

    What a prompt gets depends on nothing else; on the way that it is decoded in only through float
    rounding.

    Args:
      length: tokens that all prompts are padded to.
      max_new_tokens: of a response.
      place: puts a batch of prompts on the devices.
      log: is told how many programs were compiled.
      together: the policy lies on several processes, which all yield all records.

    Raises:
      UserError: a prompt is longer than `length`, or has nothing that may be copied.
    """
    if config.mesh.data * config.mesh.fsdp == 1 and not together:
        return _one_by_one(policy, tokenizer, config, records, mode, length, max_new_tokens, log)
    # Over several parts of a mesh a prompt that enters alone would be prefilled by each of them.
    return _in_batches(policy, tokenizer, config, records, mode, length, max_new_tokens, place)


def _one_by_one(
    policy, tokenizer, config, records, mode, length, max_new_tokens, log
) -> Iterator[Answered]:
    texts = [prompt_text(record, length) for record in records]
    limits = Limits(mode.rules, max_new_tokens, (tokenizer.eos_id,))
    finished = decode_all(
        policy,
        (
            _request(record, _keys([text], mode, config)[0])
            for record, text in zip(records, texts, strict=True)
        ),
        buckets=(length,),
        num_slots=config.evaluation.batch_size,
        sampling=mode.sampling,
        limits=limits,
        log=log,
    )
    for one in finished:
        rollout = read_rollout(one.rollout, limits, tokenizer.decode)
        yield Answered(records[one.number], texts[one.number], rollout, 0)


def _request(record: Record, keys: Key[Array, " G"]) -> Request:
    return Request(record.inputs, record.copyable, record.span_start, record.span_end, keys)


def _in_batches(
    policy, tokenizer, config, records, mode, length, max_new_tokens, place
) -> Iterator[Answered]:
    size = config.evaluation.batch_size
    limits = Limits(mode.rules, max_new_tokens, (tokenizer.eos_id,))
    for start in range(0, len(records), size):
        batch = list(records[start : start + size])
        # A last, smaller batch is filled up, so that nothing is compiled for its size.
        filled = batch + [batch[0]] * (size - len(batch))
        prompts, texts = prompts_and_texts(filled, length)
        prompts, keys = place((prompts, _keys(texts, mode, config)))
        decoded = decode(policy, prompts, keys, sampling=mode.sampling, limits=limits)
        rollout = read_rollout(decoded, limits, tokenizer.decode, processes.fetch)
        for number, record in enumerate(batch):
            yield Answered(record, texts[number], rollout, number)


def _keys(texts: Sequence[PromptText], mode: Mode, config: ConfigDict) -> Key[Array, "B G"]:
    numbers = np.array([text.number for text in texts], np.uint32)
    return row_keys(config.seed, 0, numbers, mode.group_size)
