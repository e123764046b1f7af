"""A prompt as a function of its size, and the places of gold items and question."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

QUESTION_PLACES = ("end", "beginning", "both")
QUESTION_RATES = (0.6, 0.2, 0.2)
Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A right response: a thought, a closing line and the answer.

    Attributes:
      thought: texts, and ranges of characters of `Example.user` that are recalled at that place. A
        range of more tokens than a span may hold is cut.
      kept: ranges of characters that a cut keeps, if they fit.
    """

    thought: tuple[str | Range, ...]
    closing: str
    answer: str
    kept: tuple[Range, ...] = ()


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt before tokenisation. Ranges are characters of `user`.

    Attributes:
      documents: the texts that may be recalled, in order, without overlap; empty if there is no
        context.
      gold: the items that a faithful response recalls, each inside a document.
      truth: the ground truth apart from the gold items, by the fields of
        `tasks.scoring.truth.GroundTruth`: at least "answers".
      demonstrate: draws the wording of a demonstration; None if no right response is known.
      question_id: a name of the question, the same in all prompts that ask it; "" if only the
        prompts of other lengths with the same index do. Evaluations count questions by it.
    """

    system: str
    user: str
    documents: tuple[Range, ...]
    gold: tuple[Range, ...]
    truth: Mapping[str, Any]
    demonstrate: Callable[[np.random.Generator], Demonstration] | None = None
    question_id: str = ""


class Prompted(NamedTuple):
    """An example, its whole prompt, and the prompt's tokens if they are known."""

    example: Example
    prompt: str
    ids: list[int] | None = None


@dataclasses.dataclass(frozen=True)
class Draft:
    """An example whose context can hold any number of filler items up to `most`.

    `example(k + 1)` has the items of `example(k)` and one more.

    Attributes:
      from_row: its length without fillers depends on its row of the data set, so that another row
        may fit if this one does not.
    """

    example: Callable[[int], Example]
    most: int
    from_row: bool = False


def generator(name: str, seed: int, index: int) -> np.random.Generator:
    """Return the random numbers of one example: a function of (name, seed, index) alone."""
    words = np.frombuffer(name.encode(), np.uint8).astype(np.uint32)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([*words, seed, index])))


def question_place(
    rng: np.random.Generator, rates: tuple[float, float, float] = QUESTION_RATES
) -> str:
    """Draw the place of the question: the end (0.6), the beginning (0.2), or both (0.2)."""
    return QUESTION_PLACES[rng.choice(len(QUESTION_PLACES), p=rates)]


def insert_at_depth(fillers: Sequence, gold, depth: float) -> list:
    """Insert the gold item at index floor(depth * number of fillers).

    With a depth below 1 a filler always follows it, as in the paper's release, so that its data and
    ours have the same distribution.
    """
    place = int(depth * len(fillers))
    return [*fillers[:place], gold, *fillers[place:]]


def insert_at_depths(
    fillers: Sequence, gold: Sequence, depths: Sequence[float]
) -> tuple[list, list[int]]:
    """Insert several gold items, in order of depth, into the growing list.

    Returns:
      The items, and the place of each gold item, in the order of `gold`.
    """
    items = list(fillers)
    places = [0] * len(gold)
    order = sorted(range(len(gold)), key=lambda i: depths[i])
    for done, number in enumerate(order):
        place = int(depths[number] * len(items))
        items.insert(place, gold[number])
        for earlier in order[:done]:
            places[earlier] += places[earlier] >= place
        places[number] = place
    return items, places


def join(items: Sequence[str], joint: str = "\n", start: int = 0) -> tuple[str, list[Range]]:
    """Return the items as one text, and the range of each, counted from `start`."""
    ranges, place = [], start
    for item in items:
        ranges.append((place, place + len(item)))
        place += len(item) + len(joint)
    return joint.join(items), ranges


def around(question: str, introduction: str, place: str) -> tuple[str, str]:
    """Return the text before and after the documents, with the question at its place."""
    before = f"{question}\n\n" if place in ("beginning", "both") else ""
    before += f"{introduction}\n\n" if introduction else ""
    after = f"\n\n{question}" if place in ("end", "both") else ""
    return before, after
