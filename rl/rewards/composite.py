"""The whole reward of one response, with its components by name."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from rl.rewards.format import format_score
from rl.rewards.recall import density, overlap, usage
from tasks.scoring import answers
from tasks.scoring.reward import (
    PAPER_WEIGHTS,
    RewardRow,
    RewardSettings,
    RewardWeights,
    Score,
    is_full,
)
from tasks.scoring.truth import GroundTruth

EPSILON = 0.01


@runtime_checkable
class Scorer(Protocol):
    """The scoring of responses to the prompts of one data set."""

    @property
    def score(self) -> Score:
        """The score of an answer."""
        ...

    @property
    def exact_match(self) -> Score | None:
        """1 where the answer is the reference, else 0; None: where the score is full."""
        ...

    @property
    def reward(self) -> RewardRow:
        """The data set's row of the reward's table."""
        ...


@dataclasses.dataclass(frozen=True)
class Completion:
    """One response as the reward reads it.

    Attributes:
      text: the response without its stop token.
      num_tokens: the number of tokens, the stop token included.
      spans: the texts of the recall spans, open ones too, without the recall tokens.
      num_starts, num_ends: the numbers of recall tokens, counted in the token ids.
      finished: whether the response ended by itself.
    """

    text: str
    num_tokens: int
    spans: tuple[str, ...]
    num_starts: int
    num_ends: int
    finished: bool


@dataclasses.dataclass(frozen=True)
class Reward:
    """The components, each in [0, 1], and their composition.

    Attributes:
      exact_match: 0 or 1: whether the answer is the reference, as the scorer defines it.
      extra: further components that a reward of the user's has computed.
    """

    total: float
    format: float
    answer: float
    retrieval: float
    overlap: float
    usage: float
    density: float
    exact_match: float
    extra: Mapping[str, float] = dataclasses.field(default_factory=dict)


def compose(
    format_reward: float,
    answer: float,
    retrieval: float,
    weights: RewardWeights = PAPER_WEIGHTS,
) -> float:
    """Return R = 0.2 R_format + 0.4 R_add + 0.4 R_mult, or with other weights.

    R_add = (R_ans + R_ret) / 2 and R_mult = sqrt((R_ans + e)(R_ret + e)) - e with e = 0.01
    (arXiv 2604.09494, section 4.3).
    """
    additive = (1 - weights.retrieval) * answer + weights.retrieval * retrieval
    product = math.sqrt((answer + EPSILON) * (retrieval + EPSILON)) - EPSILON
    total = weights.format * format_reward + weights.sum * additive + weights.product * product
    # Rounding alone can leave [0, 1].
    return min(1.0, max(0.0, total))


def overlong_factor(num_tokens: int, max_tokens: int, buffer: int) -> float:
    """Return a factor that falls linearly from 1 to 0 over the last `buffer` tokens allowed."""
    if buffer <= 0:
        return 1.0
    return min(1.0, max(0.0, (max_tokens - num_tokens) / buffer))


def score(
    completion: Completion, truth: GroundTruth, settings: RewardSettings, scorer: Scorer
) -> Reward:
    """Return the reward of a response.

    Args:
      scorer: the scorer of the prompt's data set.
    """
    row = scorer.reward.under(settings)
    read = answers.extract_answer if settings.undress else answers.bare_answer
    answer, spans = read(completion.text), completion.spans
    answer_score = scorer.score(answer, spans, truth, settings)
    recalled = 1.0
    if settings.gold_documents:
        recalled = overlap(spans, truth.gold_documents, row, truth.gold_labels)
    used = usage(spans, completion.num_starts, completion.num_ends, row.min_span)
    dense = density(len(spans), completion.num_tokens, row.free_spans, settings.density_limit)
    well_formed = format_score(completion.text)
    if row.task_format is not None:
        well_formed = (well_formed + row.task_format(answer, spans, truth, settings)) / 2
    retrieval = recalled * used * dense
    return Reward(
        total=compose(well_formed, answer_score, retrieval, settings.weights),
        format=well_formed,
        answer=answer_score,
        retrieval=retrieval,
        overlap=recalled,
        usage=used,
        density=dense,
        exact_match=(
            is_full(answer_score)
            if scorer.exact_match is None
            else scorer.exact_match(answer, spans, truth, settings)
        ),
    )
