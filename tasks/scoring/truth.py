"""The ground truth: what a right response to a prompt contains."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The contents of a right response to one prompt.

    Attributes:
      answers: the accepted answers, aliases of one right answer: at least one, and no blank one.
      gold_documents: the documents that a faithful response recalls, as rendered in the prompt.
      gold_labels: for each gold document the label in its text, such as "[3]" or "label: 7", or ""
        if it has none; () if no document has one.
      math_answer: the number that leads to the answer, "" if there is none.
      parts: the things asked for, if there are several, each with its aliases; then `answers` holds
        them as one text.
      wrong: candidates of the context that are not asked for.
      grades: the relevance of each document of the prompt by its id (reranking); 0 is irrelevant.
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
                "give at least one, and no blank one"
            )

    @property
    def all_parts(self) -> tuple[tuple[str, ...], ...]:
        """The things that are asked for, each with its aliases: the parts, or the one answer."""
        return self.parts or (self.answers,)


def ground_truth(dataset: str, fields: Mapping[str, Any]) -> GroundTruth | None:
    """Read the ground truth from the fields of a record; None if the record has none."""
    if not fields:
        return None
    return GroundTruth(
        dataset=dataset,
        answers=tuple(fields["answers"]),
        gold_documents=tuple(fields.get("gold_documents", ())),
        gold_labels=tuple(fields.get("gold_labels", ())),
        math_answer=fields.get("math_answer", ""),
        parts=tuple(tuple(aliases) for aliases in fields.get("parts", ())),
        wrong=tuple(fields.get("wrong", ())),
        grades=dict(fields.get("grades", {})),
        choices=dict(fields.get("choices", {})),
    )
