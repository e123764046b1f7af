"""What a data set gives to the reward: its score of an answer and its row of the paper's table.

arXiv 2604.09494, section 4.3 and appendix D.3; `rl/rewards/` computes the reward from them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from tasks.scoring.truth import GroundTruth

GoldMode = Literal["standard", "top_k_gold", "always_1", "used_recall"]


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """What differs between the rewards of training and of evaluation.

    Attributes:
      density_limit: spans per 1,024 response tokens that cost nothing.
      math_answer_credit: score for finding the number but not the value (math_retrieval).
      many_shot_gold_mode: the gold mode of many-shot classification (see `RewardRow.gold_mode`).
      coverage_weight: share of the answers in the score of cited answers; citations have the rest.
    """

    density_limit: float
    math_answer_credit: float
    many_shot_gold_mode: GoldMode
    coverage_weight: float


# The paper's training configurations, and the defaults that its evaluation script uses.
SETTINGS = {
    "train": RewardSettings(
        density_limit=4.0,
        math_answer_credit=0.25,
        many_shot_gold_mode="top_k_gold",
        coverage_weight=0.2,
    ),
    "eval": RewardSettings(
        density_limit=6.0,
        math_answer_credit=0.0,
        many_shot_gold_mode="always_1",
        coverage_weight=0.0,
    ),
}

# The score in [0, 1] of an answer, from the answer, the texts of the response's recall spans, the
# truth and the settings.
Score = Callable[[str, Sequence[str], GroundTruth, RewardSettings], float]


@dataclasses.dataclass(frozen=True)
class RewardRow:
    """One row of the paper's table.

    Attributes:
      hit_threshold: copy-F1 from which a gold document counts as recalled in full.
      min_span: characters; shorter spans are errors of usage.
      gold_mode: "standard" (all gold documents), "top_k_gold" (the k best), "always_1", or
        "used_recall" (1 if there is any span).
      free_spans: spans that the density does not count.
      top_k: gold documents that count in the mode "top_k_gold".
      many_shot: whether the settings choose the gold mode (many-shot classification).
      task_format: the task's own half of the format reward; None leaves it whole.
    """

    hit_threshold: float
    min_span: int
    gold_mode: GoldMode
    free_spans: int
    top_k: int = 0
    many_shot: bool = False
    task_format: Score | None = None

    def under(self, settings: RewardSettings) -> "RewardRow":
        """Return the row with the gold mode that it has under these settings."""
        if not self.many_shot:
            return self
        return dataclasses.replace(self, gold_mode=settings.many_shot_gold_mode)


def is_full(score: float) -> float:
    """Return 1 where a score is full: none of the grades, parts and choices is missing."""
    return float(score >= 1.0 - 1e-9)


def full(score: Score) -> Score:
    """Return the score that is 1 where the given one is full, else 0."""

    def whole(
        answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
    ) -> float:
        return is_full(score(answer, spans, truth, settings))

    return whole


def best_of(score: Callable[[str, str], float]) -> Score:
    """Return the best score of an answer over the accepted answers."""

    def best(
        answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
    ) -> float:
        del spans, settings
        return max(score(answer, accepted) for accepted in truth.answers)

    return best


def of_answer(score: Callable[[str, GroundTruth], float]) -> Score:
    """Return the score that reads the answer and the truth alone."""

    def scored(
        answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
    ) -> float:
        del spans, settings
        return score(answer, truth)

    return scored
