"""Judge models, given by the user as functions; without them HELMET's judged metrics are left out.

HELMET asks an 11B entailment model about citations and GPT-4o (2024-05-13) about the other two.
"""

import dataclasses
from collections.abc import Callable, Sequence

from tasks.errors import TaskInputError
from tasks.suites.helmet.citations import Entailment

MOST_CORRECT = 3

# (question, output, references) -> (fluency 0 or 1, correctness 0 … 3).
AnswerJudge = Callable[[str, str, Sequence[str]], tuple[float, float]]
# (output, references) -> (fluency 0 or 1, recall of key points, precision of sentences).
SummaryJudge = Callable[[str, Sequence[str]], tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Judges:
    """The judges that the user gives; None for one that is missing.

    Attributes:
      entailment: judges citation_rec and citation_prec.
      answer: judges gpt-4-score (narrativeqa).
      summary: judges gpt-4-f1.
    """

    entailment: Entailment | None = None
    answer: AnswerJudge | None = None
    summary: SummaryJudge | None = None

    def missing(self, metrics: Sequence[str]) -> list[str]:
        """Return the metrics among these that can't be computed without a judge."""
        needs = {
            "citation_rec": self.entailment,
            "citation_prec": self.entailment,
            "gpt-4-score": self.answer,
            "gpt-4-f1": self.summary,
        }
        return [name for name in metrics if name in needs and needs[name] is None]


NO_JUDGES = Judges()


def answer_grade(
    judge: AnswerJudge, question: str, output: str, references: Sequence[str]
) -> float:
    """Return gpt-4-score: fluency times correctness, as a share of the maximum.

    Raises:
      TaskInputError: the judge's numbers are out of range.
    """
    fluency, correctness = judge(question, output, references)
    _check("answer", fluency=(fluency, 1), correctness=(correctness, MOST_CORRECT))
    return fluency * correctness / MOST_CORRECT


def summary_f1(judge: SummaryJudge, output: str, references: Sequence[str]) -> float:
    """Return gpt-4-f1: fluency times the F1 of recall and precision.

    Raises:
      TaskInputError: the judge's numbers are out of range.
    """
    fluency, recall, precision = judge(output, references)
    _check("summary", fluency=(fluency, 1), recall=(recall, 1), precision=(precision, 1))
    both = recall + precision
    return fluency * 2 * recall * precision / both if both else 0.0


def _check(judge: str, **values: tuple[float, float]) -> None:
    for name, (value, most) in values.items():
        if not 0 <= value <= most:
            raise TaskInputError(f"the {judge} judge's {name} = {value} must be from 0 to {most}")
