"""Passages: a title and a text, the answers that they hold, and how a prompt shows them."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.errors import UnfitRowError
from tasks.prompts.context import Range, join
from tasks.prompts.sentences import PASSAGE, sentence_ranges
from tasks.scoring.answers import normalise
from tasks.sources.table import plain_text

MAX_TITLE, MAX_TEXT, MAX_QUESTION, MAX_ANSWER = 300, 20_000, 2_000, 300
MAX_ALIASES = 500
# Answers that judge the passages and do not stand in them.
JUDGEMENTS = ("yes", "no")
# Two texts whose first characters are equal, this many, are versions of one passage.
OPENING = 80
# A span that covers this much of a passage recalls it in full: the copy-F1 of a quarter is 0.4.
SUPPORT_SHARE = 0.3

_NO_WORD = re.compile(r"[\W_]+")


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage of clean text: composed Unicode, single spaces, no control tokens.

    Attributes:
      title: "" if the passage has none.
    """

    title: str
    text: str

    @functools.cached_property
    def words(self) -> str:
        """The title and text in both normal forms, with a space at each end."""
        return f" {' '.join(_forms(f'{self.title} {self.text}'))} "

    @functools.cached_property
    def key(self) -> str:
        """The normalised text: equal for copies of one passage."""
        return normalise(self.text)

    @property
    def opening(self) -> str:
        """The beginning of the key: equal for versions of one passage."""
        return self.key[:OPENING]


def clean(value: Any, name: str, *, most: int) -> str:
    """Return a text in composed Unicode with single spaces.

    Raises:
      UnfitRowError: the value is not a text, is blank or too long, or holds a control token.
    """
    return " ".join(plain_text({name: value}, name, most=most).split())


def read_passage(title: Any, text: Any) -> Passage:
    """Return a passage from raw fields; a missing title counts as "".

    Raises:
      UnfitRowError: a field is not a text or is absurdly long, or the text has no word.
    """
    blank = title is None or (isinstance(title, str) and not title.strip())
    passage = Passage(
        "" if blank else clean(title, "title", most=MAX_TITLE),
        clean(text, "passage", most=MAX_TEXT),
    )
    if not passage.key:
        raise UnfitRowError("a passage without words")
    return passage


def read_passages(values: Any) -> list[Passage]:
    """Return the usable passages of a list of raw objects, each text once.

    They serve as distractors or candidates, so malformed ones are left out.
    """
    found: dict[str, Passage] = {}
    for value in values if isinstance(values, list) else ():
        if isinstance(value, Mapping):
            try:
                passage = read_passage(value.get("title"), value.get("text"))
            except UnfitRowError:
                continue
            found.setdefault(passage.key, passage)
    return list(found.values())


def read_answers(values: Any) -> tuple[str, ...]:
    """Return the usable answers among a raw text or a list of texts, each once.

    Raises:
      UnfitRowError: no answer is usable; an answer must have a word left when normalised.
    """
    found = []
    for value in (values if isinstance(values, list) else [values])[:MAX_ALIASES]:
        try:
            answer = clean(value, "answer", most=MAX_ANSWER)
        except UnfitRowError:
            continue
        if normalise(answer):
            found.append(answer)
    if not found:
        raise UnfitRowError("no answer")
    return tuple(dict.fromkeys(found))


def needles(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the texts to look for in `Passage.words`: the answers as whole words.

    There is none for yes and no, which stand in passages without answering anything.
    """
    normal = dict.fromkeys(form for answer in answers for form in _forms(answer))
    return tuple(f" {answer} " for answer in normal if answer and answer not in JUDGEMENTS)


def _forms(text: str) -> tuple[str, str]:
    """Return SQuAD's normal form, and one in which punctuation separates words.

    The first keeps "U.S." as one word, but also "Paris/London".
    """
    return normalise(text), normalise(_NO_WORD.sub(" ", text))


def holds(passage: Passage, wanted: Sequence[str]) -> bool:
    """Return whether a passage or its title has one of the needles."""
    return any(needle in passage.words for needle in wanted)


def support(
    passage: Passage, answers: Sequence[str], facts: Sequence[int] = (), parts: Sequence[Range] = ()
) -> Range:
    """Return the range of a passage's text that supports the answer.

    It is the sentence that holds an answer, or else the first of `facts`, or else the first one,
    with as many neighbours as make up `SUPPORT_SHARE` of the passage.

    Args:
      facts: the numbers of the sentences that are known to support the answer.
      parts: the ranges of the sentences; () finds them.
    """
    parts = parts or sentence_ranges(passage.text, PASSAGE)
    known = [number for number in facts if 0 <= number < len(parts)]
    first = last = known[0] if known else 0
    for low, high in (place for answer in answers for place in places(passage.text, answer)):
        covers = [i for i, (start, end) in enumerate(parts) if start < high and end > low]
        if covers and (not known or set(covers) & set(known)):
            first, last = covers[0], covers[-1]
            break
    least = SUPPORT_SHARE * (len(passage.title) + len(passage.text))
    while parts[last][1] - parts[first][0] < least and last - first + 1 < len(parts):
        if last + 1 < len(parts):
            last += 1
        else:
            first -= 1
    return parts[first][0], parts[last][1]


def places(text: str, answer: str) -> Iterator[Range]:
    """Yield the ranges of an answer in a text, as whole words, not inside a longer number.

    Line breaks and spaces count as equal. There is none for yes and no, as in `needles`.
    """
    if normalise(answer) in JUDGEMENTS:
        return
    pattern = r"\s+".join(map(re.escape, answer.split()))
    if is_spaced(answer[0]):
        pattern = rf"(?<!\w)(?<!\d[.,]){pattern}"
    if is_spaced(answer[-1]):
        pattern = rf"{pattern}(?!\w)(?![.,]\d)"
    yield from (match.span() for match in re.finditer(pattern, text, re.IGNORECASE))


def is_spaced(character: str) -> bool:
    """Return whether a character belongs to a word in a script that separates words by spaces."""
    return character.isalnum() and character < "\u2e80"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The heading of a passage in a prompt.

    Attributes:
      head: makes the heading from the passage's number and title.
      first: the number of the first passage in the prompt.
      titled: whether the title is shown.
    """

    head: Callable[[int, str], str]
    first: int = 1
    titled: bool = True


# A passage without a title is shown as its text alone.
QUESTION_LAYOUTS = {
    "title": Layout(lambda number, title: f"{title}\n" if title else ""),
    "title:": Layout(lambda number, title: f"{title}: " if title else ""),
    "[id]": Layout(lambda number, title: f"[{number}] ", titled=False),
    "[id] title": Layout(
        lambda number, title: f"[{number}] {title}\n" if title else f"[{number}] "
    ),
    "Passage n:": Layout(lambda number, title: f"Passage {number}: ", titled=False),
}
QUESTION_LAYOUT_RATES = {
    "title": 0.30,
    "title:": 0.20,
    "[id]": 0.15,
    "[id] title": 0.20,
    "Passage n:": 0.15,
}


def question_layout(
    rng: np.random.Generator, gold: Sequence[Passage], wanted: Sequence[str]
) -> Layout:
    """Draw a layout by the paper's rates; one without titles only if no title is needed.

    No title is needed if each gold text names its own title, so that it says what it is about, and
    holds the answer if its title does.

    Args:
      wanted: the needles of the answer.
    """
    untitled = all(_needs_no_title(passage, wanted) for passage in gold)
    rates = {
        name: rate
        for name, rate in QUESTION_LAYOUT_RATES.items()
        if untitled or QUESTION_LAYOUTS[name].titled
    }
    total = sum(rates.values())
    drawn = rng.choice(len(rates), p=[rate / total for rate in rates.values()])
    return QUESTION_LAYOUTS[list(rates)[drawn]]


def _needs_no_title(passage: Passage, wanted: Sequence[str]) -> bool:
    # A part such as "(1999 film)" only distinguishes titles.
    title = normalise(passage.title.partition(" (")[0])
    alone = Passage("", passage.text)
    named = not title or f" {title} " in alone.words
    return named and holds(alone, wanted) == holds(passage, wanted)


def render(
    passages: Sequence[Passage], layout: Layout, start: int
) -> tuple[str, list[Range], list[int]]:
    """Return the passages as one text from character `start` on.

    Returns:
      The text, the range of each passage with its head, and the length of each head.
    """
    heads = [layout.head(layout.first + i, passage.title) for i, passage in enumerate(passages)]
    items = [head + passage.text for head, passage in zip(heads, passages, strict=True)]
    text, ranges = join(items, "\n\n", start)
    return text, ranges, [len(head) for head in heads]
