"""RULER's metrics with its cleaning, rounding and threshold (NVIDIA/RULER, c3f5e3b)."""

import re
from collections.abc import Mapping, Sequence

from tasks.scoring.answers import THINK_END

# The score of Llama-2-7B at 4K. A model's effective length is the longest that reaches it.
THRESHOLD = 85.6
_CONTROL = re.compile(r"[\x00-\x1f]")


def clean(prediction: str) -> str:
    """Strip a prediction, turn control characters into newlines, and strip it again."""
    return _CONTROL.sub("\n", prediction.strip()).strip()


def after_thought(response: str) -> str:
    """Return the text after the last `</think>`, or "" if the thought was not closed.

    Otherwise a thought that never ends could earn a score by quoting.
    """
    return response.rpartition(THINK_END)[2] if THINK_END in response else ""


def match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the share of references that are substrings of the prediction, both lower-cased."""
    found = sum(reference.lower() in prediction.lower() for reference in references)
    return found / len(references)


def match_part(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if any reference is a substring of the prediction, both lower-cased."""
    return float(any(reference.lower() in prediction.lower() for reference in references))


def aggregate(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean in percent, rounded to 2 decimals, and the number of empty predictions."""
    metric = next(iter(rows[0]))
    mean = 100 * sum(row[metric] for row in rows) / len(rows)
    return {metric: round(mean, 2), "empty": sum(row["empty"] for row in rows)}


def effective_length(means: Mapping[int, float]) -> int:
    """Return the longest length up to which every mean reaches the threshold; 0 if none does.

    Args:
      means: the mean of the 13 tasks by target length.
    """
    longest = 0
    for length in sorted(means):
        if means[length] < THRESHOLD:
            break
        longest = length
    return longest


def across(scores: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over the lengths, and the effective length among them.

    Args:
      scores: the result of `overall` by target length.
    """
    means = {length: row["mean"] for length, row in scores.items()}
    return {
        "mean": sum(means.values()) / len(means),
        "effective_length": effective_length(means),
    }


def overall(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the plain mean of the tasks at one length, and whether it reaches the threshold."""
    mean = sum(scores.values()) / len(scores)
    return {"mean": mean, "reaches_85_6": float(mean >= THRESHOLD)}
