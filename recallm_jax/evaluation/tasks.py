"""The tasks of an evaluation: the mixture's validation tasks, and the suites of a config."""

import dataclasses
import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from recallm_jax.data.records import task_settings, validation_records
from tasks.names import validation_task
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites import registry
from tasks.suites.task import task_at


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """One task at one length.

    Attributes:
      max_new_tokens: the longest response.
      records: makes the examples.
    """

    name: str
    length: int
    max_new_tokens: int
    records: Callable[[], list[Record]]


def task_names(config: ConfigDict) -> list[str]:
    """Return the names of a config's tasks at all its lengths, in order."""
    datasets = sorted(name for name, rate in config.data.mixture.items() if rate > 0)
    lengths = config.evaluation.lengths
    named = [validation_task(dataset, length) for dataset in datasets for length in lengths]
    for task in registry.suite_tasks(config.evaluation.suites):
        named += [task_at(task.name, length) for length in lengths]
    return named


def evaluation_tasks(
    config: ConfigDict,
    tokenizer: Tokenizer,
    *,
    suites_only: bool = False,
    most: int | None = None,
) -> list[EvaluationTask]:
    """Return a config's tasks at all its lengths; a task makes its records on demand.

    Args:
      suites_only: leave out the mixture's validation tasks.
      most: the most examples of a suite's task; None takes evaluation.num_examples.
    """
    found = []
    new_tokens = config.decoding.max_new_tokens
    mixture = (
        [] if suites_only else [name for name, rate in config.data.mixture.items() if rate > 0]
    )
    for dataset in sorted(mixture):
        for length in config.evaluation.lengths:
            records = functools.partial(validation_records, config, tokenizer, dataset, length)
            name = validation_task(dataset, length)
            found.append(EvaluationTask(name, length, new_tokens, records))
    settings = task_settings(config)
    count = config.evaluation.num_examples if most is None else most
    for task in registry.suite_tasks(config.evaluation.suites):
        for length in config.evaluation.lengths:
            make = functools.partial(task.records, tokenizer, settings, length, count, config.seed)
            name = task_at(task.name, length)
            limit = task.max_new_tokens or new_tokens
            found.append(EvaluationTask(name, length, limit, make))
    return found
