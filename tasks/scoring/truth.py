"""The ground truth: what a right response to a prompt contains."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.errors import TaskInputError


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
      TaskInputError: no answer, or a blank one: no response could be right.
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
        _check_answers(f"{self.dataset}: ground_truth", self.answers)

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


def check_ground_truth(truth: Any) -> None:
    """Refuse the ground truth of a record if it is neither empty nor complete.

    Raises:
      TaskInputError: a field is missing, unknown or of the wrong type, or no response could be
        right.
    """
    if truth == {}:
        return
    names = ("answers", "gold_documents")
    remedy = f"it must have {' and '.join(names)}, or be {{}}"
    if not isinstance(truth, dict):
        raise TaskInputError(f"ground_truth = {truth!r} is not an object; {remedy}")
    if missing := [name for name in names if name not in truth]:
        raise TaskInputError(f"ground_truth has no {' and no '.join(missing)}; {remedy}")
    for name, value in truth.items():
        kind, fits = _TRUTH.get(name, ("left out: the field is unknown", lambda _: False))
        if not fits(value):
            raise TaskInputError(f"ground_truth.{name} = {value!r} must be {kind}")
    _check_answers("ground_truth", truth["answers"])
    labels = truth.get("gold_labels", ())
    if labels and len(labels) != len(truth["gold_documents"]):
        raise TaskInputError(
            f"ground_truth.gold_labels has {len(labels)} entries for "
            f"{len(truth['gold_documents'])} gold_documents; give one for each, or none"
        )


def _check_answers(place: str, answers: Sequence[str]) -> None:
    if not answers or not all(answer.strip() for answer in answers):
        raise TaskInputError(
            f"{place}.answers = {answers!r}: no response could be right; "
            "give at least one answer, and no blank one"
        )


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _map_to(kind: type) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict)
        and all(isinstance(name, str) and isinstance(item, kind) for name, item in value.items())
    )


_TRUTH: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("answers", "gold_documents", "gold_labels", "wrong"), ("a list of texts", _texts)
    ),
    "gold_ranges": (
        "a list of pairs of integers",
        lambda value: (
            isinstance(value, list | tuple)
            and all(
                isinstance(pair, list | tuple)
                and len(pair) == 2
                and all(isinstance(place, int) for place in pair)
                for pair in value
            )
        ),
    ),
    "math_answer": (
        'a text, such as "42", or "" if there is none',
        lambda value: isinstance(value, str),
    ),
    "parts": (
        "a list of lists of texts",
        lambda value: isinstance(value, list | tuple) and all(map(_texts, value)),
    ),
    "question_id": ("a text", lambda value: isinstance(value, str)),
    "grades": ('an object such as {"12": 1}', _map_to(int)),
    "choices": ('an object such as {"A": "a text"}', _map_to(str)),
}
