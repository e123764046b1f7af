"""The tasks of an evaluation: the mixture's validation tasks, and the suites of a config."""

import dataclasses
import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from recallm_jax.data.records import validation_records
from recallm_jax.data.settings import evaluated_datasets, evaluated_lengths, task_settings
from tasks.names import validation_task
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites import registry
from tasks.suites.task import SuiteTask, task_at


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
    records: Callable[[Tokenizer], list[Record]]


def evaluation_tasks(config: ConfigDict) -> list[EvaluationTask]:
    """Return a config's tasks at all its lengths; a task makes its records on demand."""
    found = []
    new_tokens = config.decoding.max_new_tokens
    for dataset in evaluated_datasets(config):
        for length in evaluated_lengths(config, dataset):
            records = functools.partial(validation_records, config, dataset=dataset, length=length)
            name = validation_task(dataset, length)
            found.append(EvaluationTask(name, length, new_tokens, records))
    for task in registry.suite_tasks(config.evaluation.suites):
        for length in config.evaluation.lengths:
            records = functools.partial(suite_records, config, task=task, length=length)
            limit = task.max_new_tokens or new_tokens
            found.append(EvaluationTask(task_at(task.name, length), length, limit, records))
    return found


def suite_records(
    config: ConfigDict,
    tokenizer: Tokenizer,
    task: SuiteTask,
    length: int,
    *,
    most: int | None = None,
) -> list[Record]:
    """Return the records of a suite's task at a target length, as `validation_records` does."""
    count = config.evaluation.num_examples if most is None else most
    return task.records(tokenizer, task_settings(config), length, count, config.seed)
