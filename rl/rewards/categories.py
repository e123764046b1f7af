"""The reward's settings for each data set: the only place with data-set names.

arXiv 2604.09494, section 4.3 and appendix D.3.
"""

import dataclasses
from collections.abc import Callable, Mapping

from tasks import scoring


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


AnswerScore = Callable[[str, GroundTruth, "RewardSettings"], float]


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """What differs between training and evaluation, and between the paper's rules and ours.

    Attributes:
      density_limit: spans per 1,024 response tokens that cost nothing.
      math_answer_credit: score for finding the number but not the value (math_retrieval).
      paper_rule: score answers by the paper's rules, without our guards (`tasks/scoring.py`).
    """

    density_limit: float
    math_answer_credit: float
    paper_rule: bool = False


SETTINGS = {
    "train": RewardSettings(density_limit=4.0, math_answer_credit=0.25),
    "eval": RewardSettings(density_limit=6.0, math_answer_credit=0.0),
}


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
      top_k: gold documents that count in the mode "top_k_gold".
    """

    hit_threshold: float
    min_span: int
    gold_mode: str
    free_spans: int
    answer_score: AnswerScore
    top_k: int = 0


def _value(answer: str, truth: GroundTruth, settings: RewardSettings) -> float:
    return max(
        scoring.contains_value(answer, value, paper_rule=settings.paper_rule)
        for value in truth.answers
    )


def _value_or_number(answer: str, truth: GroundTruth, settings: RewardSettings) -> float:
    number = scoring.contains_value(answer, truth.math_answer, paper_rule=settings.paper_rule)
    return max(_value(answer, truth, settings), settings.math_answer_credit * number)


CATEGORIES = {
    "retrieval": Category(0.9, 5, "standard", 2, _value),
    "math_retrieval": Category(0.9, 5, "standard", 2, _value_or_number),
}


def category(dataset: str) -> Category:
    """Return a data set's row of the table.

    Raises:
      ValueError: the data set has none.
    """
    if dataset not in CATEGORIES:
        known = ", ".join(sorted(CATEGORIES))
        raise ValueError(f"dataset {dataset!r} has no reward; known are {known}")
    return CATEGORIES[dataset]
