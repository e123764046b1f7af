"""The part of the reward that a data set declares: its score of an answer and its table row.

arXiv 2604.09494, section 4.3 and appendix D.3; `rl/rewards/` computes the reward from them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from tasks.errors import TaskInputError
from tasks.scoring.truth import GroundTruth

GoldMode = Literal["standard", "top_k_gold", "always_1", "used_recall"]


@dataclasses.dataclass(frozen=True)
class RewardWeights:
    """The weights of R = format R_format + sum R_add + product R_mult.

    Attributes:
      retrieval: the weight of retrieval in R_add; the answer has the rest.
    """

    format: float = 0.2
    sum: float = 0.4
    product: float = 0.4
    retrieval: float = 0.5


PAPER_WEIGHTS = RewardWeights()


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """The settings of the reward: those in which training and evaluation differ come first.

    Attributes:
      density_limit: the number of spans per 1,024 response tokens that cost nothing.
      math_answer_credit: the score for finding the number but not the value (math_retrieval).
      many_shot_gold_mode: the gold mode of many-shot classification (see `RewardRow.gold_mode`).
      coverage_weight: the weight of the answers given in the score of cited answers; the citations
        have the rest.
      weights: the weights of the reward's parts.
      gold_documents: whether spans must recall the gold documents; otherwise the overlap is 1.
      undress: whether scores read the answer without recall tags, quotes and the like.
    """

    density_limit: float
    math_answer_credit: float
    many_shot_gold_mode: GoldMode
    coverage_weight: float
    weights: RewardWeights = PAPER_WEIGHTS
    gold_documents: bool = True
    undress: bool = True


# The paper's training configurations, and the defaults of its evaluation script.
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

# (answer, texts of the response's recall spans, truth, settings) -> the score of the answer, in
# [0, 1].
Score = Callable[[str, Sequence[str], GroundTruth, RewardSettings], float]


@dataclasses.dataclass(frozen=True)
class RewardRow:
    """One row of the paper's table.

    Attributes:
      hit_threshold: the copy-F1 from which a gold document counts as recalled in full.
      min_span: the least characters of a span; shorter spans are errors of usage.
      gold_mode: "standard" (all gold documents), "top_k_gold" (the k best), "always_1", or
        "used_recall" (1 if there is any span).
      free_spans: the number of spans that the density does not count.
      top_k: the number of gold documents that count in the mode "top_k_gold".
      many_shot: whether the settings choose the gold mode (many-shot classification).
      task_format: the task's half of the format reward; None if the general format is all of it.

    Raises:
      TaskInputError: a value is not one of these, or out of bounds.
    """

    hit_threshold: float
    min_span: int
    gold_mode: GoldMode
    free_spans: int
    top_k: int = 0
    many_shot: bool = False
    task_format: Score | None = None

    def __post_init__(self):
        modes = get_args(GoldMode)
        if self.gold_mode not in modes:
            raise TaskInputError(
                f"reward.gold_mode = {self.gold_mode!r} is not one of {', '.join(map(repr, modes))}"
            )
        if not 0 < self.hit_threshold <= 1:
            raise TaskInputError(
                f"reward.hit_threshold = {self.hit_threshold!r} is out of bounds; give more than 0 "
                "and at most 1"
            )
        for name in ("min_span", "free_spans"):
            if getattr(self, name) < 0:
                raise TaskInputError(
                    f"reward.{name} = {getattr(self, name)!r} is negative; give at least 0"
                )
        if self.top_k < 1 and (self.gold_mode == "top_k_gold" or self.many_shot):
            raise TaskInputError(
                f"reward.top_k = {self.top_k!r} lets no gold document count in the mode "
                "'top_k_gold'; give at least 1"
            )

    def under(self, settings: RewardSettings) -> "RewardRow":
        """Return the row with the gold mode that the settings choose."""
        if not self.many_shot:
            return self
        return dataclasses.replace(self, gold_mode=settings.many_shot_gold_mode)


def is_full(score: float) -> float:
    """Return 1 if a score is full, up to rounding, else 0."""
    return float(score >= 1.0 - 1e-9)


def full(score: Score) -> Score:
    """Turn a score into one that is 1 if the given score is full, else 0."""
    return lambda answer, spans, truth, settings: is_full(score(answer, spans, truth, settings))


def best_of(score: Callable[[str, str], float]) -> Score:
    """Turn a comparison into the best score of an answer over the accepted answers."""
    return lambda answer, spans, truth, settings: max(
        score(answer, accepted) for accepted in truth.answers
    )


def of_answer(score: Callable[[str, GroundTruth], float]) -> Score:
    """Turn a function of the answer and the truth into a score."""
    return lambda answer, spans, truth, settings: score(answer, truth)
