"""HELMET's random draws, repeated so that rows and demonstrations are those of the benchmark.

The benchmark shuffles with a seeded NumPy generator (as Hugging Face's `datasets` does) and draws
keys with Python's generator.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

SEED = 42
SHOTS = 2

T = TypeVar("T")
# What names a question in the benchmark's files.
Key = str | int


def text_seed(text: str, plus: int = 0) -> int:
    """Return (SHA-256 of the text + `plus`) modulo 2^31."""
    return (int(hashlib.sha256(text.encode()).hexdigest(), 16) + plus) % 2**31


def shuffled(count: int, seed: int = SEED) -> list[int]:
    """Return the numbers below `count` in an order that depends on the seed."""
    return np.random.default_rng(seed).permutation(count).tolist()


def draw_keys(keys: Iterable[Key | None], count: int) -> set[Key]:
    """Draw `count` of the keys that are not blank, or all if there are fewer.

    The draw is from the sorted keys: whole numbers are sorted as such.
    """
    distinct = {key for key in keys if key or key == 0}
    by_kind = sorted(distinct, key=lambda key: (isinstance(key, str), key))
    return set(random.Random(SEED).sample(by_kind, min(count, len(by_kind))))


def draw_demos(keys: Sequence[Key | None], key: Key, allowed: Sequence[bool]) -> list[int]:
    """Draw the numbers of a question's SHOTS demonstrations, each with another key.

    Args:
      keys: the keys of all demonstrations.
      key: the key of the question, which seeds the draw.
      allowed: whether each demonstration may be drawn.
    """
    numbers = [number for number, may in enumerate(allowed) if may]
    chosen: dict[Key | None, int] = {}
    for place in shuffled(len(numbers), text_seed(str(key))):
        chosen.setdefault(keys[numbers[place]], numbers[place])
        if len(chosen) == SHOTS:
            break
    return list(chosen.values())


def balanced(rows: Sequence[T], label: Callable[[T], Any], count: int, seed: int) -> list[T]:
    """Draw `count` rows in rounds that have each label once, in an order drawn for each round.

    If a label has fewer rows than there are rounds, the counts of its rows differ by at most one.
    """
    rng = random.Random(seed)
    by_label: dict[Any, list[T]] = {}
    for row in rows:
        by_label.setdefault(label(row), []).append(row)
    rounds: list[list[T]] = [[] for _ in range(math.ceil(count / len(by_label)))]
    for group in by_label.values():
        numbers = rng.sample(range(len(group)), len(rounds) % len(group))
        while len(numbers) < len(rounds):
            numbers += rng.sample(range(len(group)), min(len(rounds) - len(numbers), len(group)))
        for one_round, number in zip(rounds, numbers, strict=True):
            one_round.append(group[number])
    for one_round in rounds:
        rng.shuffle(one_round)
    return [row for one_round in rounds for row in one_round][:count]
