"""The records of a config's data: read by SeqIO, generated on demand, or read from JSONL files."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.config.kept import RECORDS, hold_to_config
from recallm_jax.data.arrays import check_prompt
from recallm_jax.data.released import check_splits, released_record, released_validation
from recallm_jax.data.settings import (
    RELEASE,
    check_system_prompt,
    drawn_dataset,
    evaluated_datasets,
    mixture_rates,
    task_settings,
)
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.quiet import hidden_stderr
from storage.errors import InputError, naming
from storage.files import Path, as_path
from tasks import generate
from tasks.datasets.registry import find
from tasks.names import MIXTURE, validation_task
from tasks.prompts.demonstrations import check_demonstration
from tasks.prompts.record import Record, read_jsonl
from tasks.prompts.vocabulary import Tokenizer

JSONL = "jsonl:"
GENERATED = "generated"


def check_data(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Refuse a system prompt or files of the release that can't be used, before any work is done.

    Raises:
      UserError: names the field.
      TaskInputError: a file of the release is missing.
    """
    check_system_prompt(config, tokenizer)
    if config.data.source.startswith(RELEASE):
        check_splits(config)


def train_records(
    config: ConfigDict,
    tokenizer: Tokenizer,
    start: int,
    *,
    rows: Sequence[int] = (0,),
    size: int = 1,
) -> Generator[Record, None, None]:
    """Yield the training records from number `start` on, without end; close it when done.

    `data.source` is "seqio", the registered mixture; "generated", the same data sets without
    TensorFlow, where record number i is a function of i alone; "release:FOLDER", the rows of the
    paper's data set, drawn in the same way; or "jsonl:FILE", read in its order, again and again.

    SeqIO's threads read ahead. If they are still running when Python exits, it may crash or hang.

    Args:
      rows, size: from each `size` records, counted from `start`, only those at the places `rows`
        are yielded; little work is done for the others.
    """
    source = config.data.source
    numbers = (first + row for first in itertools.count(start, size) for row in rows)
    if source == GENERATED or source.startswith(RELEASE):
        make = _generated if source == GENERATED else released_record
        for number in numbers:
            yield make(config, tokenizer, number)
    elif source.startswith(JSONL):
        path = as_path(source.removeprefix(JSONL))
        records = list(_prepared(config, tokenizer, path, config.data.target_length))
        if not records:
            raise UserError(f"data.source {source} holds no record; write it with prepare")
        for number in numbers:
            yield records[number % len(records)]
    else:
        with contextlib.closing(_mixture_records(config, tokenizer, start, rows, size)) as mixture:
            yield from mixture


def validation_records(
    config: ConfigDict,
    tokenizer: Tokenizer,
    dataset: str,
    length: int,
    *,
    most: int | None = None,
) -> list[Record]:
    """Return the validation records of a data set at a target length.

    With `data.source = "jsonl:DIR/train.jsonl"` they are read from `DIR/<task>.jsonl`; with
    "release:FOLDER" they are the first rows of the release's split of that length.

    Args:
      most: return at most this many, the first ones; None returns all.
    """
    task = validation_task(dataset, length)
    count = config.evaluation.num_examples
    wanted = count if most is None else min(count, most)
    if config.data.source == GENERATED:
        settings = dataclasses.replace(task_settings(config), target_length=length)
        return [
            generate.record(dataset, tokenizer, settings, "validation", config.seed, index)
            for index in range(wanted)
        ]
    if config.data.source.startswith(RELEASE):
        return released_validation(config, tokenizer, dataset, length, wanted)
    if config.data.source.startswith(JSONL):
        path = as_path(config.data.source.removeprefix(JSONL)).parent / f"{task}.jsonl"
        records = list(itertools.islice(_prepared(config, tokenizer, path, length), count))
        if len(records) < count:
            raise UserError(
                f"{path} holds {len(records)} records, evaluation.num_examples asks for {count}; "
                "lower it, or prepare more"
            )
        return records[:wanted]
    with contextlib.closing(_seqio_records(config, tokenizer, task, "validation")) as examples:
        if not config.data.cache_dir:
            return list(itertools.islice(examples, wanted))
        # A cache holds the records in another order.
        return sorted(examples, key=_number)[:wanted]


def _number(record: Record) -> int:
    return int(record.example_id.rpartition("/")[2])


def _generated(config: ConfigDict, tokenizer: Tokenizer, number: int) -> Record:
    dataset = drawn_dataset(config, number)
    return generate.record(dataset, tokenizer, task_settings(config), "train", config.seed, number)


def register_tasks(config: ConfigDict, tokenizer: Tokenizer, **options: int):
    """Register a config's tasks with SeqIO.

    SeqIO needs TensorFlow, which is loaded only here and kept off accelerators.

    Args:
      options: `num_train`, the number of training examples in a cache.

    Returns:
      The modules seqio and tasks.mixtures, and the error in which TensorFlow wraps a task's own.
    """
    with hidden_stderr():
        import seqio
        import tensorflow as tf

        from tasks import mixtures

        tf.config.set_visible_devices([], "GPU")
    mixture = mixtures.Mixture(
        rates=mixture_rates(config),
        evaluated=evaluated_datasets(config),
        validation_lengths=tuple(config.evaluation.lengths),
        num_validation=config.evaluation.num_examples,
        seed=config.seed,
        cache_dir=config.data.cache_dir,
        **options,
    )
    mixtures.register(tokenizer, task_settings(config), mixture)
    return seqio, mixtures, tf.errors.InvalidArgumentError


def _mixture_records(
    config: ConfigDict, tokenizer: Tokenizer, start: int, rows: Sequence[int], size: int
) -> Generator[Record, None, None]:
    if config.data.cache_dir:
        return _seqio_records(
            config,
            tokenizer,
            MIXTURE,
            "train",
            lambda mixtures, examples: mixtures.only_rows(examples, start, rows, size),
        )
    _, mixtures, invalid_argument = register_tasks(config, tokenizer)
    examples = mixtures.train_examples(config.seed, start, rows, size)
    return _records_of(examples, mixtures, invalid_argument)


def _seqio_records(
    config: ConfigDict,
    tokenizer: Tokenizer,
    name: str,
    split: str,
    choose: Callable[[Any, Any], Any] = lambda mixtures, examples: examples,
) -> Generator[Record, None, None]:
    seqio, mixtures, invalid_argument = register_tasks(config, tokenizer)
    provider = seqio.get_mixture_or_task(name)
    is_mixture = isinstance(provider, seqio.Mixture)
    options = {"passthrough_features": mixtures.PASSTHROUGH} if is_mixture else {}
    if config.data.cache_dir:
        seqio.set_global_cache_dirs([config.data.cache_dir])
        tasks = provider.tasks if is_mixture else [provider]
        for task in tasks:
            if not task.cache_dir:
                raise UserError(
                    f"config.data.cache_dir = {config.data.cache_dir!r} holds no finished cache of "
                    f"{task.name}; write it with seqio_cache_tasks (docs/tasks.md)"
                )
    examples = provider.get_dataset(
        None,
        split=split,
        shuffle=False,
        seed=config.seed,
        num_epochs=1 if split == "validation" else None,
        use_cached=bool(config.data.cache_dir),
        # A task that is only partly read would warn of its half-filled cache.
        try_in_mem_cache=False,
        **options,
    )
    return _records_of(choose(mixtures, examples), mixtures, invalid_argument)


def _records_of(
    examples: Any, mixtures: ModuleType, invalid_argument: Any
) -> Generator[Record, None, None]:
    """Yield the records of a TensorFlow dataset."""
    try:
        for features in examples.as_numpy_iterator():
            yield mixtures.to_record(features)
    except invalid_argument as error:
        # TensorFlow wraps a task's error, with its traceback, in an error of its own.
        raised = _quoted(error.message)
        if raised is None:
            raise
        raise raised from None


def _quoted(message: str) -> InputError | None:
    """Return the last `InputError` in the tracebacks that a message quotes; None without one."""
    names = set(_names_in_tracebacks(InputError))
    lines = re.findall(r"^([\w.<>]+): (.*)$", message, re.MULTILINE)
    texts = [text for name, text in lines if name in names]
    return InputError(texts[-1]) if texts else None


def _names_in_tracebacks(error: type[Exception]) -> Iterator[str]:
    """Yield the names of an error and of all errors derived from it, as tracebacks write them."""
    in_script = error.__module__ == "__main__"
    yield error.__qualname__ if in_script else f"{error.__module__}.{error.__qualname__}"
    for derived in error.__subclasses__():
        yield from _names_in_tracebacks(derived)


def _prepared(
    config: ConfigDict, tokenizer: Tokenizer, path: Path, max_length: int
) -> Iterator[Record]:
    """Yield the records of a file, each checked against the config and the tokenizer."""
    remedy = "prepare it again, or give that value"
    hold_to_config(config, path.parent, fields=RECORDS, remedy=remedy)
    for number, record in enumerate(read_jsonl(path), 1):
        if number == 1 and tokenizer.encode(record.prompt) != record.inputs.tolist():
            raise UserError(
                f"{path} was tokenised by another tokenizer than the model's; "
                "prepare it again with this model's weights"
            )
        with naming(f"{path}, line {number}"):
            _check_record(config, tokenizer, record, max_length)
        yield record


def _check_record(
    config: ConfigDict, tokenizer: Tokenizer, record: Record, max_length: int
) -> None:
    find(record.dataset)
    for name in ("inputs", "targets"):
        wrong = [token for token in getattr(record, name) if not 0 <= token < tokenizer.size]
        if wrong:
            raise UserError(
                f"{name} holds the token {wrong[0]}, but the model's tokenizer has only "
                f"{tokenizer.size} entries; prepare it again with this model's weights"
            )
    check_prompt(record, max_length)
    if len(record.targets):
        check_demonstration(
            record.inputs,
            (record.copyable, record.span_start, record.span_end),
            record.targets,
            tokenizer,
            example_id=record.example_id,
            min_recall_length=config.decoding.min_recall_length,
            max_recall_length=config.decoding.max_recall_length,
        )
