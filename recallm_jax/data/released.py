"""Records of the paper's release, and traces for the cold start (`tasks/sources/release.py`)."""

import collections
import dataclasses
import functools
import itertools
import logging
from collections.abc import Generator, Mapping, Sequence

from ml_collections import ConfigDict

from recallm_jax.data.settings import (
    RELEASE,
    drawn_dataset,
    evaluated_datasets,
    evaluated_lengths,
    prompt_room,
    task_settings,
)
from recallm_jax.runtime.errors import UserError
from tasks.errors import DemonstrationError, TaskInputError, UnfitRowError
from tasks.generate import MAX_ATTEMPTS
from tasks.names import train_task, validation_task
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer
from tasks.sources.release import (
    question_of,
    read_release,
    release_files,
    release_record,
    trace_record,
    validation_split,
)
from tasks.sources.table import pick, read_rows


@functools.cache
def _say_once(line: str) -> None:
    """Log a warning, once a process: data are read before the run and in it."""
    logging.getLogger(__name__).warning(line)


def _told(left_out: collections.Counter[str]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in left_out.most_common())


def check_splits(config: ConfigDict) -> None:
    """Refuse a folder of the release that lacks a validation split; say which ones don't exist.

    Raises:
      UserError: the release has no prompts of these lengths.
      TaskInputError: a split has no file.
    """
    absent, found = [], 0
    for dataset in evaluated_datasets(config):
        lengths = evaluated_lengths(config, dataset)
        for length in lengths:
            release_files(_folder(config), dataset, validation_split(length))
        found += len(lengths)
        absent += [f"{dataset} {n}" for n in config.evaluation.lengths if n not in lengths]
    if absent and not found and not config.evaluation.suites:
        raise UserError(
            f"config.evaluation.lengths = {tuple(config.evaluation.lengths)}: the release has no "
            f"prompts of {', '.join(absent)}; add 4096"
        )
    if absent:
        _say_once(f"left out, as the release has no such prompts: {', '.join(absent)}")


def shared_questions(config: ConfigDict, dataset: str) -> int:
    """Return how many questions of a data set's validation splits are asked in training too."""

    def asked(split: str) -> set[str]:
        return {question_of(row, dataset) for row in read_release(_folder(config), dataset, split)}

    splits = map(validation_split, evaluated_lengths(config, dataset))
    return len((asked("train") & set().union(*map(asked, splits))) - {""})


def say_shared_questions(counts: Mapping[str, int]) -> None:
    """Say how many questions training and validation share, by data set."""
    if shared := {dataset: count for dataset, count in counts.items() if count}:
        named = ", ".join(f"{dataset} {count}" for dataset, count in shared.items())
        _say_once(f"questions for validation that the release asks in training too: {named}")


def _folder(config: ConfigDict) -> str:
    return config.data.source.removeprefix(RELEASE)


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
      UserError: the file can't be read, or none is usable.
    """
    path, settings = config.data.traces, task_settings(config)
    found, left_out = [], collections.Counter[str]()
    try:
        rows = list(read_rows(path))
    except TaskInputError as error:
        raise UserError(
            f"config.data.traces = {path!r}: {error}; give a file of traces, JSONL or Parquet, or "
            "'' for none"
        ) from None
    for number, raw in enumerate(rows, 1):
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
    if not found:
        reasons = _told(left_out) or "it is empty"
        raise UserError(f"config.data.traces = {path!r} has no usable trace: {reasons}")
    if left_out:
        total = left_out.total() + len(found)
        _say_once(f"{path}: {left_out.total()} of {total} traces left out: {_told(left_out)}")
    return found


def released_record(config: ConfigDict, tokenizer: Tokenizer, number: int) -> Record:
    """Return training record `number` of the release; rows that don't fit give way to others.

    Raises:
      UserError: none of the rows that were tried could be used.
    """
    dataset, settings = drawn_dataset(config, number), task_settings(config)
    raw = read_release(_folder(config), dataset, "train")
    for attempt in range(MAX_ATTEMPTS):
        try:
            row = pick(raw, 2 * config.seed, number, attempt)
            name = f"{train_task(dataset)}/{number}"
            return release_record(row, dataset, name, tokenizer, settings)
        except UnfitRowError as error:
            reason = error
    raise UserError(
        f"{dataset}: no row of {MAX_ATTEMPTS} of the release could be used; the last: {reason}; "
        f"raise config.data.target_length, or set config.data.mixture.{dataset}=0.0"
    )


def released_validation(
    config: ConfigDict, tokenizer: Tokenizer, dataset: str, length: int, wanted: int
) -> list[Record]:
    """Return the first `wanted` usable validation records of a data set at a length.

    If the split has fewer, they are all returned, and a line says so.

    Raises:
      UserError: the split has none.
    """
    split = validation_split(length)
    raw = read_release(_folder(config), dataset, split)
    settings = dataclasses.replace(task_settings(config), target_length=prompt_room(config, length))
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
    usable = f"usable rows of {len(raw)} ({_told(left_out) or 'no more'})"
    if not records:
        raise UserError(
            f"{dataset} {split} of the release has 0 {usable}; download it again, or set "
            f"config.data.mixture.{dataset}=0.0"
        )
    if len(records) < wanted:
        _say_once(f"{dataset} {split} of the release has {len(records)} {usable}, not {wanted}")
    return records
