"""Records of the paper's release, and traces for the cold start (`tasks/sources/release.py`)."""

import collections
import dataclasses
import itertools
import logging
from collections.abc import Generator, Sequence

from ml_collections import ConfigDict

from recallm_jax.data.settings import drawn_dataset, task_settings
from recallm_jax.runtime.errors import UserError
from tasks.errors import DemonstrationError, UnfitRowError
from tasks.generate import MAX_ATTEMPTS
from tasks.names import train_task, validation_task
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer
from tasks.sources.release import read_release, release_record, trace_record, validation_split
from tasks.sources.table import pick, read_rows

RELEASE = "release:"


def trace_records(
    config: ConfigDict, tokenizer: Tokenizer, start: int, *, rows: Sequence[int], size: int
) -> Generator[Record, None, None]:
    """Yield the traces of `data.traces` from number `start` on, as `train_records`, without end.

    Each pass is in an order of its own, drawn from the seed. Traces that can't be learned from are
    left out and counted.

    Raises:
      UserError: none is left.
    """
    traces = read_trace_records(config, tokenizer)
    numbers = (first + row for first in itertools.count(start, size) for row in rows)
    for number in numbers:
        yield pick(traces, config.seed, number, 0)


def read_trace_records(config: ConfigDict, tokenizer: Tokenizer) -> list[Record]:
    """Return the usable traces of `data.traces`, in the file's order; warn of the others.

    Raises:
      UserError: none is usable, or a usable one is too long for the config.
    """
    path, settings = config.data.traces, task_settings(config)
    found, left_out = [], collections.Counter[str]()
    for number, raw in enumerate(read_rows(path), 1):
        try:
            if isinstance(raw, UnfitRowError):
                raise raw
            record = trace_record(raw, f"trace/{number}", tokenizer, settings)
            if len(record.inputs) > config.data.target_length:
                raise UnfitRowError("a prompt longer than config.data.target_length")
            if len(record.targets) > config.decoding.max_new_tokens:
                raise UnfitRowError("a completion longer than config.decoding.max_new_tokens")
        except DemonstrationError:
            left_out["a span that can't be copied as it is"] += 1
        except UnfitRowError as error:
            left_out[str(error)] += 1
        else:
            found.append(record)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
    if not found:
        raise UserError(f"config.data.traces = {path!r} has no usable trace: {reasons or 'empty'}")
    if left_out:
        logging.getLogger(__name__).warning(
            "%s: %d of %d traces left out: %s",
            *(path, left_out.total(), left_out.total() + len(found), reasons),
        )
    return found


def released_record(config: ConfigDict, tokenizer: Tokenizer, number: int) -> Record:
    """Return training record `number` of the release; rows that don't fit give way to others.

    Raises:
      UserError: none of the rows that were tried could be used.
    """
    dataset, settings = drawn_dataset(config, number), task_settings(config)
    raw = read_release(config.data.source.removeprefix(RELEASE), dataset, "train")
    for attempt in range(MAX_ATTEMPTS):
        try:
            row = pick(raw, 2 * config.seed, number, attempt)
            name = f"{train_task(dataset)}/{number}"
            return release_record(row, dataset, name, tokenizer, settings)
        except UnfitRowError as error:
            reason = error
    raise UserError(
        f"{dataset}: no row of {MAX_ATTEMPTS} of the release could be used; the last: {reason}"
    )


def released_validation(
    config: ConfigDict, tokenizer: Tokenizer, dataset: str, length: int, wanted: int
) -> list[Record]:
    """Return the first `wanted` usable validation records of a data set at a length.

    Raises:
      UserError: the split has fewer.
    """
    folder = config.data.source.removeprefix(RELEASE)
    raw = read_release(folder, dataset, validation_split(length))
    settings = dataclasses.replace(task_settings(config), target_length=length)
    records: list[Record] = []
    left_out = collections.Counter[str]()
    for number, row in enumerate(raw):
        if len(records) == wanted:
            break
        try:
            name = f"{validation_task(dataset, length)}/{number}"
            records.append(release_record(row, dataset, name, tokenizer, settings))
        except UnfitRowError as error:
            left_out[str(error)] += 1
    if len(records) < wanted:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
        raise UserError(
            f"{dataset} {validation_split(length)} of the release has {len(records)} usable rows "
            f"of {len(raw)} ({reasons or 'no more'}), evaluation.num_examples asks for {wanted}; "
            "lower it"
        )
    return records
