"""SeqIO metric functions over `tasks/scoring.py`."""

from collections.abc import Sequence
from typing import Any

from tasks import scoring
from tasks.suites import SuiteTask


def answer_metrics(targets: Sequence[dict[str, Any]], predictions: Sequence[str]) -> dict:
    """Return exact match and containment of the final answers, in percent.

    Args:
      targets: ground truths with their "answers".
      predictions: whole responses, thought included.
    """
    exact, contained = 0.0, 0.0
    for truth, response in zip(targets, predictions, strict=True):
        answer = scoring.extract_answer(response)
        exact += max(scoring.exact_match(answer, value) for value in truth["answers"])
        contained += max(scoring.contains_value(answer, value) for value in truth["answers"])
    count = max(1, len(targets))
    return {"exact_match": 100 * exact / count, "answer_contained": 100 * contained / count}


def suite_metrics(
    task: SuiteTask, targets: Sequence[dict[str, Any]], predictions: Sequence[str]
) -> dict:
    """Return a suite's own metrics of whole responses; see `answer_metrics`."""
    return task.aggregate(
        [task.score(p, truth) for truth, p in zip(targets, predictions, strict=True)]
    )
