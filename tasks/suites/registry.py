"""The evaluation suites by name, and a function to add one.

A suite is a list of `SuiteTask`s (`tasks/suites/task.py`) in a module of its own.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from tasks.errors import TaskInputError
from tasks.suites import own
from tasks.suites.helmet import suite as helmet
from tasks.suites.ruler import scores as ruler_scores
from tasks.suites.ruler import suite as ruler
from tasks.suites.task import Scores, SuiteTask

# The tasks of each suite.
SUITES: dict[str, Callable[[], tuple[SuiteTask, ...]]] = {
    "ruler": ruler.plain_tasks,
    "ruler_chat": ruler.chat_tasks,
    "helmet": helmet.helmet,
    "helmet_chat": helmet.helmet_chat,
    "own": own.tasks,
}
# How a suite combines the main metrics of its tasks at one length; by default it is their mean.
OVERALL: dict[str, Callable[[Mapping[str, float]], Scores]] = {
    "ruler": ruler_scores.overall,
    "ruler_chat": ruler_scores.overall,
    "helmet": helmet.overall,
    "helmet_chat": helmet.overall,
}
# How a suite combines its overall scores at several lengths; others are not combined.
ACROSS: dict[str, Callable[[Mapping[int, Scores]], Scores]] = {
    "ruler": ruler_scores.across,
    "ruler_chat": ruler_scores.across,
}


def register(
    name: str,
    tasks: Callable[[], tuple[SuiteTask, ...]],
    overall: Callable[[Mapping[str, float]], Scores] | None = None,
) -> None:
    """Add a suite, or replace one, for example by HELMET with judges.

    Args:
      overall: combines the main metrics of its tasks at one length; None takes their mean.
    """
    SUITES[name] = tasks
    OVERALL.pop(name, None)
    ACROSS.pop(name, None)
    if overall is not None:
        OVERALL[name] = overall
    _all_tasks.cache_clear()


def suite_tasks(names: Sequence[str]) -> tuple[SuiteTask, ...]:
    """Return the tasks with these names and of the suites with these names, each once.

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
    """Return the task of this name; None if no suite has one."""
    return _all_tasks().get(name)


@functools.cache
def _all_tasks() -> dict[str, SuiteTask]:
    return {task.name: task for tasks in SUITES.values() for task in tasks()}


def overall(suite: str, scores: Mapping[str, float]) -> Scores | None:
    """Return the combined score of a suite at one length; None if a task is missing.

    Args:
      scores: the main metrics of tasks by name, of this suite and of others.
    """
    names = [task.name for task in SUITES[suite]()]
    if not all(name in scores for name in names):
        return None
    ours = {name: scores[name] for name in names}
    return OVERALL.get(suite, _mean)(ours)


def _mean(scores: Mapping[str, float]) -> Scores:
    return {"mean": sum(scores.values()) / len(scores)}
