"""The paper's own rules for scoring an answer (arXiv 2604.09494, appendix D.3).

Each function has the signature of the one with its name in `answers`, `candidates`, `ids` or
`mathematics`, whose docstring says which gaming or luck our rule excludes.
"""

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from tasks.scoring.answers import normalise
from tasks.scoring.candidates import last_word
from tasks.scoring.ids import ENOUGH, weighted_citation_f1
from tasks.scoring.mathematics import boxed

_END_PUNCTUATION = ".,;:!?"
_CITED = re.compile(r"\[(\d+)\]")
_MARKS_TO_SPACES = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# A name of one word up to this long must be a word of the answer, not a part of one.
_SHORT_NAME = 4


def contains_value(answer: str, value: str) -> float:
    """Return 1 if the value is a substring of the answer."""
    return float(value in answer)


def is_equal_normalised(answer: str, reference: str) -> float:
    """Return 1 if the two have the same normal form, even an empty one."""
    return float(normalise(answer) == normalise(reference))


def matches_reference(answer: str, reference: str) -> float:
    """Return 1 if one of the normalised texts is a substring of the other."""
    given, wanted = normalise(answer), normalise(reference)
    return float(given in wanted or wanted in given)


def chosen_letter(answer: str, letter: str, options: Mapping[str, str]) -> float:
    """Return 1 if the first capital A to D anywhere in the answer is the letter."""
    del options
    first = re.search("[A-D]", answer)
    return float(first is not None and first[0] == letter)


def majority(answer: str, option: Sequence[str], others: Sequence[str]) -> float:
    """Return 1 if the answer names the winning option.

    In lower case and without end punctuation, the answer is the option's name or its last word,
    contains the name as words, or begins or ends with the last word.
    """
    del others
    text = " ".join(answer.lower().strip().rstrip(_END_PUNCTUATION).split())
    name = " ".join(option[0].lower().split())
    last = last_word(name)
    words = text.split()
    return float(text in (name, last) or _has_word(text, name) or last in words[:1] + words[-1:])


def top_votes(answer: str, options: Sequence[Sequence[str]], others: Sequence[str]) -> float:
    """Return max(0, right - wrong) / N.

    An option counts if the answer has its name, in any case, or its last word, in this case.
    """
    right, wrong = (
        sum(
            _has_word(answer.lower(), name.lower()) or _has_word(answer, last_word(name))
            for name in names
        )
        for names in ([aliases[0] for aliases in options], others)
    )
    return max(0.0, right - wrong) / max(1, len(options))


def _has_word(text: str, name: str) -> bool:
    """Return whether a name occurs in a text outside longer words."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def several_values(answer: str, parts: Sequence[Sequence[str]], wrong: Sequence[str]) -> float:
    """Return max(0, hits - wrong) / expected, counting substrings of the answer."""
    hits = sum(any(value in answer for value in aliases) for aliases in parts)
    misses = sum(value in answer for value in wrong)
    return max(0.0, hits - misses) / max(1, len(parts))


def cited_ids(text: str) -> list[str]:
    """Return the distinct ids cited as "[3]", in their order."""
    return list(dict.fromkeys(_CITED.findall(text)))


def without_citations(text: str) -> str:
    """Return the text with every "[3]" replaced by a space."""
    return _CITED.sub(" ", text)


def citation_f1(answer: str, spans: Iterable[str], grades: Mapping[str, int]) -> float:
    """Return the F1 of the cited documents; a span backs every id that it shows."""
    shown = {name for span in spans for name in cited_ids(span)}
    return weighted_citation_f1(cited_ids(answer), shown, grades)


def citation_format(answer: str, grades: Mapping[str, int]) -> float:
    """Return 1 if the answer cites at least one `[N]` and has some other text."""
    del grades
    return float(bool(cited_ids(answer)) and bool(without_citations(answer).strip()))


def answer_coverage(answer: str, parts: Sequence[Sequence[str]]) -> float:
    """Return min(5, answers given) / min(5, answers there are).

    An answer is given if one of its names is a substring, both in `qampari_form`; a name of one
    word of up to four letters must be a word of its own.
    """
    text = qampari_form(without_citations(answer))
    names = [[qampari_form(alias) for alias in aliases] for aliases in parts]
    given = sum(any(_gives(text, name) for name in aliases) for aliases in names)
    return min(ENOUGH, given) / max(1, min(ENOUGH, len(parts)))


def _gives(text: str, name: str) -> bool:
    if " " not in name and len(name) <= _SHORT_NAME:
        return name in text.split()
    return name in text


def qampari_form(text: str) -> str:
    """Return the normal form of answers that cite: no accents, "and" for "&", no marks."""
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    words = plain.casefold().replace("&", " and ").translate(_MARKS_TO_SPACES)
    return " ".join(_ARTICLES.sub(" ", words).split())


def equal_expressions(answer: str, reference: str) -> float:
    """Return 1 if the reference is a substring of the first `\\boxed{}`."""
    boxes = boxed(answer)
    return float(bool(boxes) and reference in boxes[0])


def chosen_option(answer: str, letter: str, options: Mapping[str, str]) -> float:
    """Return 1 if the first `\\boxed{}` contains the option's letter or its text."""
    boxes = boxed(answer)
    text = options.get(letter, "")
    return float(bool(boxes) and (letter in boxes[0] or (bool(text) and text in boxes[0])))
