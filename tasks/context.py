"""Filling a context to a target length, and the places of gold item and question."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tasks.errors import TaskInputError

QUESTION_PLACES = ("end", "beginning", "both")
QUESTION_RATES = (0.6, 0.2, 0.2)


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt before tokenisation. Ranges are characters of `user`."""

    system: str
    user: str
    documents: tuple[tuple[int, int], ...]
    gold: tuple[tuple[int, int], ...]
    answers: tuple[str, ...]
    # Steps that lead to the recalled item, and its name in words, for demonstrations.
    working: str
    target: str
    math_answer: str = ""


def generator(name: str, seed: int, index: int) -> np.random.Generator:
    """Return the random numbers of one example: a function of (name, seed, index) alone."""
    words = np.frombuffer(name.encode(), np.uint8).astype(np.uint32)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([*words, seed, index])))


def question_place(rng: np.random.Generator) -> str:
    """Draw where the question stands: at the end 0.6, the beginning 0.2, both 0.2."""
    return QUESTION_PLACES[rng.choice(len(QUESTION_PLACES), p=QUESTION_RATES)]


def insert_at_depth(fillers: Sequence, gold, depth: float) -> list:
    """Insert the gold item at index floor(depth * number of fillers).

    With depth below 1 a filler always follows it: the release's rule, kept so that its data and
    ours have the same distribution.
    """
    place = int(depth * len(fillers))
    return [*fillers[:place], gold, *fillers[place:]]


def largest_fit(
    count_tokens: Callable[[int], int], target_length: int, guess: int, most: int
) -> int:
    """Return the largest number of items whose prompt has at most `target_length` tokens.

    `count_tokens` is asked for few numbers: it rises almost linearly, so each answer gives the
    next guess, until a number fits and the next does not.

    Args:
      most: there are no more items than this.

    Raises:
      TaskInputError: not even the prompt without fillers fits.
    """
    counts: dict[int, int] = {}

    def fits(number: int) -> bool:
        if number not in counts:
            counts[number] = count_tokens(number)
        return counts[number] <= target_length

    if not fits(0):
        raise TaskInputError(
            f"target_length {target_length} is too short: the question and its gold item alone "
            f"take {counts[0]} tokens; raise target_length"
        )
    low, high = 0, most + 1
    number = min(max(guess, 1), most)
    while high - low > 1:
        if fits(number):
            low = number
        else:
            high = number
        slope = (counts[number] - counts[0]) / max(1, number)
        step = int((target_length - counts[number]) / max(slope, 1.0))
        step = step or (1 if fits(number) else -1)
        number = min(max(number + step, low + 1), high - 1)
    return low
