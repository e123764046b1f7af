"""The reward's settings for each data set: the only place with data-set names.

arXiv 2604.09494, section 4.3 and appendix D.3.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from rl.rewards.format import citation_format, ranking_format
from tasks.scoring import answers as scoring
from tasks.scoring import candidates, ids, mathematics, paper


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What a right response to one prompt is.

    Attributes:
      answers: accepted answers, at least one, none blank: the aliases of one right answer.
      gold_documents: the documents that a faithful response recalls, as rendered in the prompt.
      gold_labels: for each gold document the label that stands in it, such as "[3]" or
        "label: 7"; () or "" where there is none.
      math_answer: the number that leads to the answer, "" where there is none.
      parts: where several things are asked for, each with its aliases; then `answers` holds them
        as one text.
      wrong: candidates of the context that are not asked for.
      grades: relevance of each document of the prompt by its id (reranking), 0 for none.
      choices: the text of each option by its letter (multiple choice).

    Raises:
      ValueError: no answer, or a blank one: no response could be right.
    """

    dataset: str
    answers: tuple[str, ...]
    gold_documents: tuple[str, ...] = ()
    gold_labels: tuple[str, ...] = ()
    math_answer: str = ""
    parts: tuple[tuple[str, ...], ...] = ()
    wrong: tuple[str, ...] = ()
    grades: Mapping[str, int] = dataclasses.field(default_factory=dict)
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.answers or not all(answer.strip() for answer in self.answers):
            raise ValueError(
                f"the ground truth of {self.dataset!r} has the answers {self.answers!r}; "
                "give at least one, and none blank"
            )


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """What differs between training and evaluation, and between the paper's rules and ours.

    Attributes:
      density_limit: spans per 1,024 response tokens that cost nothing.
      math_answer_credit: score for finding the number but not the value (math_retrieval).
      icl_gold_mode: the gold mode of many-shot classification (see `Category.gold_mode`).
      coverage_weight: share of the answers in the score of cited answers; citations have the rest.
      paper_rule: score answers by the paper's rules, without our guards (`tasks/scoring/`).
    """

    density_limit: float
    math_answer_credit: float
    icl_gold_mode: str
    coverage_weight: float
    paper_rule: bool = False


# The paper's training configurations, and the defaults that its evaluation script uses.
SETTINGS = {
    "train": RewardSettings(
        density_limit=4.0,
        math_answer_credit=0.25,
        icl_gold_mode="top_k_gold",
        coverage_weight=0.2,
    ),
    "eval": RewardSettings(
        density_limit=6.0,
        math_answer_credit=0.0,
        icl_gold_mode="always_1",
        coverage_weight=0.0,
    ),
}

# Scores of an answer and of the recall spans before it, in [0, 1].
AnswerScore = Callable[[str, Sequence[str], GroundTruth, RewardSettings], float]
# Whether an answer is the reference, from the answer, its score and the truth.
ExactMatch = Callable[[str, float, GroundTruth], float]
TaskFormat = Callable[[str, GroundTruth, RewardSettings], float]


def is_full(answer: str, score: float, truth: GroundTruth) -> float:
    """Return 1 where the answer score is full: of grades, parts and choices nothing is missing."""
    del answer, truth
    return float(score >= 1.0 - 1e-9)


def is_value(answer: str, score: float, truth: GroundTruth) -> float:
    """Return 1 where the answer is the value and nothing else, however it is quoted."""
    del score
    return max(scoring.exact_match(answer, value) for value in truth.answers)


def is_alias(answer: str, score: float, truth: GroundTruth) -> float:
    """Return SQuAD's exact match, the best over the aliases."""
    del score
    return max(scoring.is_equal_normalised(answer, value) for value in truth.answers)


@dataclasses.dataclass(frozen=True)
class Category:
    """One row of the paper's table.

    Attributes:
      hit_threshold: copy-F1 from which a gold document counts as recalled in full.
      min_span: characters; shorter spans are errors of usage.
      gold_mode: "standard" (all gold documents), "top_k_gold" (the k best), "always_1", or
        "used_recall" (1 if there is any span).
      free_spans: spans that the density does not count.
      answer_score: the answer's score in [0, 1].
      exact_match: whether the answer is the reference.
      top_k: gold documents that count in the mode "top_k_gold".
      task_format: the task's own half of the format reward.
    """

    hit_threshold: float
    min_span: int
    gold_mode: str
    free_spans: int
    answer_score: AnswerScore
    exact_match: ExactMatch = is_full
    top_k: int = 0
    task_format: TaskFormat | None = None


def _value(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return max(
        (paper if settings.paper_rule else scoring).contains_value(answer, value)
        for value in truth.answers
    )


def _value_or_number(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    number = (paper if settings.paper_rule else scoring).contains_value(answer, truth.math_answer)
    value = _value(answer, spans, truth, settings)
    return max(value, settings.math_answer_credit * number)


def _several_values(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return (paper if settings.paper_rule else candidates).several_values(
        answer, truth.parts or (truth.answers,), truth.wrong
    )


def _mathematics(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return max(
        (paper if settings.paper_rule else mathematics).equal_expressions(answer, value)
        for value in truth.answers
    )


def _option(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return (paper if settings.paper_rule else mathematics).chosen_option(
        answer, truth.answers[0], truth.choices
    )


def _letter(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return (paper if settings.paper_rule else candidates).chosen_letter(
        answer, truth.answers[0], truth.choices
    )


def _label(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return max(
        (paper if settings.paper_rule else scoring).is_equal_normalised(answer, value)
        for value in truth.answers
    )


def _majority(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return (paper if settings.paper_rule else candidates).majority(
        answer, truth.answers, truth.wrong
    )


def _top_votes(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return (paper if settings.paper_rule else candidates).top_votes(
        answer, truth.parts or (truth.answers,), truth.wrong
    )


def _ranking(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans, settings
    return ids.ndcg(ids.ranked_ids(answer), truth.grades)


def _citations(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    cited = (paper if settings.paper_rule else ids).citation_f1(answer, spans, truth.grades)
    weight = settings.coverage_weight
    if not weight:
        return cited
    covered = (paper if settings.paper_rule else ids).answer_coverage(
        answer, truth.parts or (truth.answers,)
    )
    return (1 - weight) * cited + weight * covered


def _reference(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    del spans
    return max(
        (paper if settings.paper_rule else scoring).matches_reference(answer, value)
        for value in truth.answers
    )


def _is_ranking(answer: str, truth: GroundTruth, settings: RewardSettings) -> float:
    del settings
    return ranking_format(answer, truth.grades)


def _is_cited(answer: str, truth: GroundTruth, settings: RewardSettings) -> float:
    rule = paper.citation_format if settings.paper_rule else citation_format
    return rule(answer, truth.grades)


_RECALL = Category(0.9, 5, "standard", 2, _value, is_value)
# No gold documents: the threshold 1 is never used.
_MATHS = Category(1.0, 5, "always_1", 2, _mathematics)
_MANY_SHOT = Category(0.95, 7, "top_k_gold", 2, _label, top_k=2)
_VOTES = Category(1.0, 5, "always_1", 2, _majority)
_MULTI_HOP = Category(0.4, 7, "standard", 4, _reference, is_alias)
_SINGLE_HOP = Category(0.4, 7, "top_k_gold", 2, _reference, is_alias, top_k=1)

CATEGORIES = {
    "retrieval": _RECALL,
    "multi_niah": Category(0.9, 7, "standard", 6, _several_values),
    "math_retrieval": dataclasses.replace(_RECALL, answer_score=_value_or_number),
    "dapo_math": _MATHS,
    "mcqa_math": dataclasses.replace(_MATHS, answer_score=_option),
    "banking77": _MANY_SHOT,
    "massive": _MANY_SHOT,
    "quality": Category(1.0, 7, "used_recall", 4, _letter),
    "majority_vote": _VOTES,
    "top_n_vote": dataclasses.replace(_VOTES, answer_score=_top_votes),
    "msmarco_v2": Category(0.7, 5, "top_k_gold", 4, _ranking, top_k=2, task_format=_is_ranking),
    "qampari": Category(0.7, 7, "top_k_gold", 4, _citations, top_k=5, task_format=_is_cited),
    "hotpotqa": _MULTI_HOP,
    "musique": _MULTI_HOP,
    "2wikimultihopqa": _MULTI_HOP,
    "nq": _SINGLE_HOP,
    "triviaqa": _SINGLE_HOP,
    # Not the paper's: a user's own rows name what is to be recalled, up to eight places that all
    # count.
    "own_questions": dataclasses.replace(_MULTI_HOP, free_spans=8),
}


def category(dataset: str, settings: RewardSettings) -> Category:
    """Return a data set's row of the table.

    Raises:
      ValueError: the data set has none.
    """
    if dataset not in CATEGORIES:
        known = ", ".join(sorted(CATEGORIES))
        raise ValueError(f"dataset {dataset!r} has no reward; known are {known}")
    row = CATEGORIES[dataset]
    if row is _MANY_SHOT:
        row = dataclasses.replace(row, gold_mode=settings.icl_gold_mode)
    return row
