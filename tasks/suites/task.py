"""The tasks of an evaluation suite, which has its own prompts, limits and scores."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.names import length_name
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

Scores = dict[str, float]
# (tokenizer, settings, target length, number of examples, seed) -> records. Suites read this
# length, not settings.target_length.
MakeRecords = Callable[[Tokenizer, TaskSettings, int, int, int], list[Record]]
# (whole response, ground truth of its record) -> metrics of the row.
ScoreResponse = Callable[[str, Mapping[str, Any]], Scores]
# Metrics of all rows -> metrics of the task.
Aggregate = Callable[[Sequence[Mapping[str, float]]], Scores]


def mean_percent(rows: Sequence[Mapping[str, float]]) -> Scores:
    """Return the mean of each metric in percent; all rows must have the same metrics."""
    return {name: 100 * sum(row[name] for row in rows) / len(rows) for name in rows[0]}


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """One task of a suite.

    Attributes:
      name: such as "ruler_vt", without a length; it is the `dataset` of its records.
      max_new_tokens: the most tokens of a response. They count towards the target length: a prompt
        that is made here has at most `length - max_new_tokens` tokens. With None a response has
        up to decoding.max_new_tokens of the config, beyond the target length.
      records: makes the first `count` examples at a target length. The fields of their ground truth
        must be among those that `tasks/prompts/record.py` knows.
      score: returns the metrics of one response, the main one first and from 0 to 1.
      aggregate: returns the metrics of the task, the main one first, in the suite's own units and
        rounding.
      thinks: whether `score` reads a response after its thought alone. If the prompt opens no
        thought (config.data.thinking), all of a response without one counts.
    """

    name: str
    max_new_tokens: int | None
    records: MakeRecords
    score: ScoreResponse
    aggregate: Aggregate = mean_percent
    thinks: bool = False


def task_at(name: str, length: int) -> str:
    """Return the name of a task at a length, such as "ruler_vt_4k"."""
    return f"{name}_{length_name(length)}"
