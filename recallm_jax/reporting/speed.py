"""Where the time of a run's steps goes: a row for each stage."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from recallm_jax.reporting.data import POLICY_STAGES, Run, curve
from recallm_jax.runtime.timing import COMPILE, SECONDS, STEP, TOKENS_PER_SECOND, UTILISATION
from recallm_jax.training.speed import PARTS, ROLLOUT, UPDATE

# The part of a step that no named part covers.
OTHER = "other"
# The numbers of the colours of whole steps and of their parts.
COLOURS = {part: number for number, part in enumerate((OTHER, STEP, *PARTS, COMPILE))}
# The parts that work is counted for.
_COUNTED = (ROLLOUT, UPDATE)
_TITLES = {"sft1": "cold start, phase 1", "sft2": "cold start, phase 2", **POLICY_STAGES}


@dataclasses.dataclass(frozen=True)
class StageSpeed:
    """The speed of one stage's steps: medians over the steps, unless said otherwise.

    Attributes:
      steps: the number of steps.
      seconds: of a whole step.
      parts: seconds of each part of a step that the stage has, and of "other", the rest of it.
      compiling: seconds in which programs were compiled, in all steps.
      tokens: tokens a second in the rollout and in the update; None for a part that it lacks.
      padding: the share of padding in the update; None if it was not written.
      utilisation: model-FLOPs utilisation in the rollout and in the update; None if not known.
    """

    title: str
    steps: int
    seconds: float
    parts: Mapping[str, float]
    compiling: float
    tokens: Sequence[float | None]
    padding: float | None
    utilisation: Sequence[float | None]


def seconds_shown(seconds: float) -> str:
    """Return seconds with three digits, or as whole ones."""
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"


def stage_speeds(run: Run) -> list[StageSpeed]:
    """Return the speed of each stage whose metrics hold times."""
    return [
        _speed(title, run.metrics[stage])
        for stage, title in _TITLES.items()
        if curve(run.metrics.get(stage, []), SECONDS + STEP)
    ]


def _speed(title: str, rows: Sequence[Mapping[str, Any]]) -> StageSpeed:
    timed = [row for row in rows if SECONDS + STEP in row]

    def median(name: str) -> float | None:
        values = [value for _, value in curve(timed, name)]
        return statistics.median(values) if values else None

    parts = {part: median(SECONDS + part) for part in PARTS}
    known = {part: value for part, value in parts.items() if value is not None}
    rest = [
        row[SECONDS + STEP] - sum(row.get(SECONDS + part, 0.0) for part in known) for row in timed
    ]
    return StageSpeed(
        title=title,
        steps=len(timed),
        seconds=statistics.median(row[SECONDS + STEP] for row in timed),
        parts={**known, OTHER: statistics.median(rest)},
        compiling=sum(row.get(SECONDS + COMPILE, 0.0) for row in timed),
        tokens=[median(TOKENS_PER_SECOND + part) for part in _COUNTED],
        padding=median("padding"),
        utilisation=[median(UTILISATION + part) for part in _COUNTED],
    )
