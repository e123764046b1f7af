"""Records as padded arrays of prompts and demonstrations, and the prompts' texts on the host."""

import zlib
from collections.abc import Sequence

import numpy as np

from decoding.prompts import Prompts
from recallm_jax.runtime.errors import UserError
from rl.batch import PromptText
from tasks.datasets.registry import DATASETS
from tasks.prompts.record import Record
from tasks.scoring.truth import ground_truth


def prompts_and_texts(
    records: Sequence[Record], max_length: int
) -> tuple[Prompts, list[PromptText]]:
    """Return a padded batch of prompts [B, S], and their texts.

    Raises:
      UserError: a prompt is longer than S, or has no token that may be copied.
    """
    texts = [prompt_text(record, max_length) for record in records]

    def padded(name: str, dtype) -> np.ndarray:
        rows = np.zeros((len(records), max_length), dtype)
        for row, record in zip(rows, records, strict=True):
            values = getattr(record, name)
            row[: len(values)] = values
        return rows

    prompts = Prompts(
        tokens=padded("inputs", np.int32),
        lengths=np.array([len(record.inputs) for record in records], np.int32),
        copyable=padded("copyable", bool),
        span_start=padded("span_start", bool),
        span_end=padded("span_end", bool),
    )
    return prompts, texts


def check_prompt(record: Record, max_length: int) -> None:
    """Refuse a prompt of more than `max_length` tokens, or without a token that may be copied.

    Raises:
      UserError: names the prompt.
    """
    if len(record.inputs) > max_length:
        raise UserError(
            f"prompt {record.example_id} has {len(record.inputs)} tokens, more than the "
            f"{max_length} there is room for; raise the length, or shorten the prompt"
        )
    dataset = DATASETS.get(record.dataset)
    if dataset is not None and not dataset.has_context:
        return
    if not (record.copyable & record.span_start).any():
        raise UserError(
            f"prompt {record.example_id} has no copyable token; mark its context as copyable"
        )


def prompt_text(record: Record, max_length: int) -> PromptText:
    """Return the text of a prompt of at most `max_length` tokens, and its ground truth.

    Raises:
      UserError: the prompt is longer, or has no token that may be copied.
    """
    check_prompt(record, max_length)
    return PromptText(
        example_id=record.example_id,
        number=zlib.crc32(record.example_id.encode()),
        prompt=record.prompt,
        copyable=copyable_texts(record),
        offsets=record.offsets,
        ground_truth=ground_truth(record.dataset, record.ground_truth),
    )


def copyable_texts(record: Record) -> tuple[str, ...]:
    """Return the runs of the prompt that recall spans may copy from."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], record.copyable, [0]])))
    runs = zip(edges[::2], edges[1::2] - 1, strict=True)
    places = [(record.offsets[first, 0], record.offsets[last, 1]) for first, last in runs]
    return tuple(record.prompt[start:end] for start, end in places)


def demonstrations(records: Sequence[Record], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the demonstrations as responses [B, 1, T], padded, and their lengths [B, 1].

    A record without one, or with one longer than T, has length 0: nothing is learned from it.
    """
    tokens = np.zeros((len(records), 1, max_length), np.int32)
    lengths = np.zeros((len(records), 1), np.int32)
    for row, record in enumerate(records):
        if len(record.targets) <= max_length:
            tokens[row, 0, : len(record.targets)] = record.targets
            lengths[row] = len(record.targets)
    return tokens, lengths


def check_demonstrations(records: Sequence[Record], max_length: int) -> None:
    """Refuse records that a cold start would leave out.

    Raises:
      UserError: a demonstration is longer than `max_length`, or no record has one.
    """
    for record in records:
        if len(record.targets) > max_length:
            raise UserError(
                f"demonstration of {record.example_id} has {len(record.targets)} tokens, more than "
                f"the {max_length} there is room for; raise decoding.max_new_tokens"
            )
    if records and not any(len(record.targets) for record in records):
        raise UserError(
            f"none of the first {len(records)} training records has a demonstration; leave the "
            "cold start out of config.stages, or give data sets that have some a share"
        )
