"""Evaluation suites: benchmarks whose tasks bring their own prompts, limits and scores.

A suite is a module of its own that lists `SuiteTask`s; `SUITES` and `OVERALL` name them here.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.errors import TaskInputError
from tasks.names import length_name
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

Scores = dict[str, float]
# (tokenizer, settings, target length, number of examples, seed) -> records. The length stands
# apart from settings.target_length, which suites don't read.
MakeRecords = Callable[[Tokenizer, TaskSettings, int, int, int], list[Record]]
# (whole response, ground_truth of its record) -> metrics of that row.
ScoreResponse = Callable[[str, Mapping[str, Any]], Scores]
# Metrics of all rows -> metrics of the task.
Aggregate = Callable[[Sequence[Mapping[str, float]]], Scores]


def mean_percent(rows: Sequence[Mapping[str, float]]) -> Scores:
    """Return the mean of each metric of the rows, in percent; all rows have the same ones."""
    return {name: 100 * sum(row[name] for row in rows) / len(rows) for name in rows[0]}


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """One task of a suite.

    Attributes:
      name: such as "ruler_vt", without a length; it is the `dataset` of its records.
      max_new_tokens: of a response. The target length counts them: a prompt has at most `length -
        max_new_tokens` tokens where the task is made by us. With None a response has as many as
        the config's decoding.max_new_tokens says, past the target length.
      records: makes the first `count` examples at a target length. Their ground truth has fields
        that `tasks/prompts/record.py` knows.
      score: metrics of one response, the main one first and from 0 to 1.
      aggregate: metrics of the task, the main one first, in the suite's own units and rounding.
    """

    name: str
    max_new_tokens: int | None
    records: MakeRecords
    score: ScoreResponse
    aggregate: Aggregate = mean_percent


# Each is imported when it is asked for, as it imports this module.
def _ruler() -> tuple[SuiteTask, ...]:
    from tasks.suites.ruler.suite import plain_tasks

    return plain_tasks()


def _ruler_chat() -> tuple[SuiteTask, ...]:
    from tasks.suites.ruler.suite import chat_tasks

    return chat_tasks()


def _ruler_overall(scores: Mapping[str, float]) -> Scores:
    from tasks.suites.ruler.scores import overall

    return overall(scores)


def _helmet() -> tuple[SuiteTask, ...]:
    from tasks.suites.helmet.suite import helmet

    return helmet()


def _helmet_chat() -> tuple[SuiteTask, ...]:
    from tasks.suites.helmet.suite import helmet_chat

    return helmet_chat()


def _helmet_overall(scores: Mapping[str, float]) -> Scores:
    from tasks.suites.helmet.suite import overall

    return overall(scores)


# The tasks of suites, by name.
SUITES: dict[str, Callable[[], tuple[SuiteTask, ...]]] = {
    "ruler": _ruler,
    "ruler_chat": _ruler_chat,
    "helmet": _helmet,
    "helmet_chat": _helmet_chat,
}
# For a suite, what its tasks' main metrics at one length come to; without one, their mean.
OVERALL: dict[str, Callable[[Mapping[str, float]], Scores]] = {
    "ruler": _ruler_overall,
    "ruler_chat": _ruler_overall,
    "helmet": _helmet_overall,
    "helmet_chat": _helmet_overall,
}


def register(
    name: str,
    tasks: Callable[[], tuple[SuiteTask, ...]],
    overall: Callable[[Mapping[str, float]], Scores] | None = None,
) -> None:
    """Add a suite, or put another in the place of one, such as HELMET with judges.

    Args:
      overall: what its tasks' main metrics at one length come to; None takes their mean.
    """
    SUITES[name] = tasks
    OVERALL.pop(name, None)
    if overall is not None:
        OVERALL[name] = overall
    _all_tasks.cache_clear()


def suite_tasks(names: Sequence[str]) -> tuple[SuiteTask, ...]:
    """Return the tasks of suites, or single ones, by name; each once.

    Raises:
      TaskInputError: a name is neither a suite's nor a task's.
    """
    known = _all_tasks()
    wanted: dict[str, SuiteTask] = {}
    for name in names:
        if name in SUITES:
            wanted |= {task.name: task for task in SUITES[name]()}
        elif name in known:
            wanted[name] = known[name]
        else:
            raise TaskInputError(
                f"evaluation suite {name!r} is unknown; use any of {', '.join(SUITES)}, or single "
                f"tasks such as {next(iter(known), 'none')}"
            )
    return tuple(wanted.values())


def find_task(name: str) -> SuiteTask | None:
    """Return the suite task of this name; None where it is none."""
    return _all_tasks().get(name)


@functools.cache
def _all_tasks() -> dict[str, SuiteTask]:
    return {task.name: task for tasks in SUITES.values() for task in tasks()}


def task_at(name: str, length: int) -> str:
    """Return the name of a task at a length, such as "ruler_vt_4k"."""
    return f"{name}_{length_name(length)}"


def overall(suite: str, scores: Mapping[str, float]) -> Scores | None:
    """Return a suite's own mean at one length; None where a task is missing.

    Args:
      scores: main metrics of tasks by name, of this suite and of others.
    """
    names = [task.name for task in SUITES[suite]()]
    if not all(name in scores for name in names):
        return None
    ours = {name: scores[name] for name in names}
    return OVERALL.get(suite, _mean)(ours)


def _mean(scores: Mapping[str, float]) -> Scores:
    return {"mean": sum(scores.values()) / len(scores)}
