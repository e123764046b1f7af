"""The ground truth of a row of the paper's data set, in the fields of `GroundTruth`."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.errors import UnfitRowError
from tasks.scoring.candidates import last_word
from tasks.sources.table import text_field

_LETTERS = "ABCD"
# How the four options of a question are written, one on a line.
_STYLES = (r"{}\) ", r"{}\. ", r"\[{}\] ", r"- {}: ")
_OPTIONS = tuple(
    re.compile(
        "^" + "\n".join(rf"{style.format(letter)}(.+)" for letter in _LETTERS) + "$", re.MULTILINE
    )
    for style in _STYLES
)
_VOTE = re.compile(r" votes for: (.+)$", re.MULTILINE)
_CITED = re.compile(r"\[(?:ID: ?)?(\d+)\]")
# How documents and labelled examples show their labels, for rows whose settings don't give them.
_SHOWN = re.compile(r"\[(?:ID: ?|Doc )?\d+\]|Passage \d+:")
_LABEL = re.compile(r"(?<=\()label: ?\S.*(?=\)$)|label: ?\S.*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class ReleasedRow:
    """What the ground truth of a row is made from.

    Attributes:
      truth: `reward_model.ground_truth`.
      settings: `extra_info.settings`; {} if the row has none.
      documents: the gold documents, as they stand in the prompt.
      user: the user's text.
      question: the question alone, "" if it is not known.
    """

    truth: Mapping[str, Any]
    settings: Mapping[str, Any]
    documents: Sequence[str]
    user: str
    question: str

    @property
    def answer(self) -> str:
        """The right answer as the row writes it."""
        return text_field(self.truth, "answer", most=100_000)


def truth_fields(dataset: str, row: ReleasedRow) -> dict[str, Any]:
    """Return the fields of the ground truth of a data set's row, apart from the gold documents.

    Raises:
      UnfitRowError: the row has no answer, or not one of the data set's form.
    """
    build: Callable[[ReleasedRow], dict[str, Any]] = _BUILD.get(dataset, _one_answer)
    found = build(row)
    if not found["answers"] or not all(map(str.strip, found["answers"])):
        raise UnfitRowError("no answer")
    math = row.truth.get("math_answer")
    if math is not None and str(math):
        found["math_answer"] = str(math)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnfitRowError("a ground_truth that is not valid Unicode") from None
    return found


def parsed(value: Any) -> Any:
    """Return the value of a JSON text, None if it is no JSON; another value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def parsed_object(value: Any) -> Mapping[str, Any]:
    """Return an object that may be written as JSON; {} if it is none."""
    value = parsed(value)
    return value if isinstance(value, Mapping) else {}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split("|||") if part.strip()]


def _one_answer(row: ReleasedRow) -> dict[str, Any]:
    return {"answers": [row.answer]}


def _aliases(row: ReleasedRow) -> dict[str, Any]:
    return {"answers": _listed(row.answer)}


def _winner(row: ReleasedRow) -> dict[str, Any]:
    return {"answers": [row.answer, last_word(row.answer)], "wrong": _others(row, [row.answer])}


def _leaders(row: ReleasedRow) -> dict[str, Any]:
    names = _listed(row.answer)
    parts = [[name, last_word(name)] for name in names]
    return {"answers": [", ".join(names)], "parts": parts, "wrong": _others(row, names)}


def _others(row: ReleasedRow, right: Sequence[str]) -> list[str]:
    """Return the wrong options: those that the row names, or else those that have a vote."""
    named = _listed(str(row.truth.get("neg_answer") or ""))
    named = named or [name.strip() for name in _VOTE.findall(row.user)]
    return [name for name in dict.fromkeys(named) if name not in right]


def _values(row: ReleasedRow) -> dict[str, Any]:
    values, wrong = row.answer.split(), str(row.truth.get("neg_answer") or "").split()
    return {"answers": [", ".join(values)], "parts": [[v] for v in values], "wrong": wrong}


def _label(row: ReleasedRow) -> dict[str, Any]:
    return {"answers": [row.answer], "gold_labels": _labels(row, _LABEL, prefix="label: ")}


def _letter(row: ReleasedRow) -> dict[str, Any]:
    if row.answer not in tuple(_LETTERS):
        raise UnfitRowError("an answer that is not a letter from A to D")
    choices, right = _options(row), row.truth.get("math_answer")
    if not choices and isinstance(right, str):
        choices = dict.fromkeys(_LETTERS, "") | {row.answer: right}
    return {"answers": [row.answer], "choices": choices}


def _options(row: ReleasedRow) -> dict[str, str]:
    """Return the options by their letters; {} if there are no four lines of them.

    They follow the question: lines of the same form in the article before it are none.
    """
    place = max(0, row.user.find(row.question))
    blocks = [found for style in _OPTIONS if (found := style.search(row.user, place))]
    if not blocks:
        return {}
    first = min(blocks, key=re.Match.start)
    return dict(zip(_LETTERS, map(str.strip, first.groups()), strict=True))


def _ranking(row: ReleasedRow) -> dict[str, Any]:
    try:
        grades = parsed(row.truth.get("relevance_grades"))
        grades = {str(name): int(grade) for name, grade in grades.items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise UnfitRowError("no relevance_grades") from None
    return {"answers": [row.answer], "grades": grades, "gold_labels": _labels(row, _SHOWN)}


def _cited(row: ReleasedRow) -> dict[str, Any]:
    labels = _labels(row, _SHOWN)
    gold = {label.strip("[]") for label in labels}
    ids = dict.fromkeys(_CITED.findall(row.user))
    parts = _available(row)
    return {
        "answers": [", ".join(part[0] for part in parts)],
        "parts": parts,
        "grades": {name: int(name in gold) for name in ids},
        "gold_labels": labels,
    }


def _available(row: ReleasedRow) -> list[list[str]]:
    """Return the names of each answer that a document of the prompt gives.

    Rows without this knowledge, and those whose documents give no answer, ask for all answers.
    """
    listed = parsed(row.answer)
    if not isinstance(listed, list):
        raise UnfitRowError("an answer that is not a list")
    variants = row.settings.get("answer_variants")
    variants = variants if isinstance(variants, list) and variants else listed
    documents = parsed_object(row.settings.get("answer_to_doc_ids"))
    parts = [(str(number), _names(names)) for number, names in enumerate(variants)]
    given = [names for number, names in parts if names and documents.get(number)]
    return given or [names for _, names in parts if names]


def _names(names: Any) -> list[str]:
    """Return the names of one answer, without blank ones."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnfitRowError("an answer that is not a list of names with their aliases")
    return [name.strip() for name in names if name.strip()]


def _labels(row: ReleasedRow, shown: re.Pattern[str], prefix: str = "") -> list[str]:
    """Return the label of each gold document: from the settings, or else as it is shown."""
    given = row.settings.get("pos_doc_labels")
    if (
        isinstance(given, list)
        and len(given) == len(row.documents)
        and all(isinstance(label, str) for label in given)
    ):
        return [f"{prefix}{label}" for label in given]
    # An example's label comes after its text, a document's before it.
    found = [[match[0] for match in shown.finditer(text)] for text in row.documents]
    return [(labels[-1] if prefix else labels[0]) if labels else "" for labels in found]


_BUILD: Mapping[str, Callable[[ReleasedRow], dict[str, Any]]] = {
    **dict.fromkeys(("hotpotqa", "musique", "2wikimultihopqa", "nq", "triviaqa"), _aliases),
    **dict.fromkeys(("banking77", "massive"), _label),
    **dict.fromkeys(("quality", "mcqa_math"), _letter),
    "majority_vote": _winner,
    "top_n_vote": _leaders,
    "multi_niah": _values,
    "msmarco_v2": _ranking,
    "qampari": _cited,
}
