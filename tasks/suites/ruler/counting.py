"""RULER's aggregation tasks: the common words of a list (cwe), the frequent coded words (fwe)."""

import math
import string

import numpy as np

from tasks.errors import TaskInputError
from tasks.suites.ruler import words
from tasks.suites.ruler.prompts import (
    CWE,
    CWE_PREFIX,
    FWE,
    FWE_PREFIX,
    Prompt,
    RowSpec,
    Sized,
    filled,
)

NUM_COMMON = 10
# From this target length on, words are repeated more often.
LONG = 4096
# The worked example at target lengths below LONG (False) and from LONG on (True): the number of
# different words, and how often a common word and another word come in its list.
EXAMPLE = {False: (20, 3, 1), True: (40, 10, 3)}
# How often a common word and another word come in the list of a row.
REPEATS = {False: (6, 1), True: (30, 3)}
ALPHA = 2.0
_ZETA = math.pi**2 / 6  # of ALPHA
CODE_LETTERS = 6
NUM_FREQUENT = 3
DOTS = "..."


def common_words(spec: RowSpec) -> Sized:
    """Draw a row with any number of uncommon words, after a worked example.

    Differences from the benchmark: the list is shuffled for each row (there rows of one size are
    shuffled alike); no other word of the list contains a common one, so that naming it can't count
    as naming the common one; the words are those of `tasks/suites/ruler/words.py`, which are as
    long as the benchmark's (7.2 letters on average).
    """
    long = spec.length >= LONG
    rng = spec.rng()
    common, others = _vocabulary(rng, spec.length)
    number, *repeats = EXAMPLE[long]
    example_common, example_others = _vocabulary(spec.rng("example"), number)
    example_list = _numbered(
        example_common, example_others[: number - NUM_COMMON], repeats, spec.rng("example list")
    )
    solved = " ".join(f"{i}. {word}" for i, word in enumerate(example_common, 1))
    example = f"{CWE.format(context=example_list)}{CWE_PREFIX}{solved}\n"

    def prompt(size: int) -> Prompt:
        order = spec.rng(f"order/{size}")
        context = _numbered(common, others[:size], REPEATS[long], order)
        return filled(CWE, CWE_PREFIX, context, (), common, before=example)

    return Sized(prompt, min(spec.length, len(others)))


def _vocabulary(rng: np.random.Generator, most: int) -> tuple[list[str], list[str]]:
    """Return common words, and others in random order; the first are 7.2 letters long on average.

    None of the others contains a common word.

    Args:
      most: the most compounds that are returned.
    """
    plain = rng.permutation(words.long_words()).tolist()
    common: list[str] = []
    for word in plain:
        if len(common) == NUM_COMMON:
            break
        if not any(word in other or other in word for other in common):
            common.append(word)
    short, compounds = words.short_compounds(), words.compounds()
    mixed = [*plain, *(short[n] for n in rng.permutation(len(short))[: len(plain)].tolist())]
    drawn = rng.permutation(len(compounds))[:most].tolist()
    first = [mixed[number] for number in rng.permutation(len(mixed)).tolist()]
    rest = dict.fromkeys([*first, *(compounds[number] for number in drawn)])
    return common, [word for word in rest if not any(one in word for one in common)]


def _numbered(common: list[str], others: list[str], repeats, rng: np.random.Generator) -> str:
    listed = [*common * repeats[0], *others * repeats[1]]
    order = rng.permutation(len(listed)).tolist()
    return " ".join(f"{i}. {listed[number]}" for i, number in enumerate(order, 1))


def frequent_words(spec: RowSpec) -> Sized:
    """Draw a row of coded words whose counts follow a zeta law; the first rank are dots.

    Differences from the benchmark: the text is shuffled for each row (there texts of one size are
    shuffled alike), and a text so short that two words share the third place is refused.
    """
    rng = spec.rng()
    size = max(NUM_FREQUENT + 2, (spec.length - 50) // 50)
    vocabulary = [DOTS]
    known = set(vocabulary)
    while len(vocabulary) < size:
        letters = rng.integers(len(string.ascii_lowercase), size=CODE_LETTERS)
        word = "".join(string.ascii_lowercase[letter] for letter in letters)
        if word not in known:
            known.add(word)
            vocabulary.append(word)
    answers = vocabulary[1 : 1 + NUM_FREQUENT]

    def prompt(total: int) -> Prompt:
        counts = zeta_counts(total, len(vocabulary))
        text = np.repeat(np.arange(len(vocabulary)), counts)
        order = spec.rng(f"order/{total}").permutation(text).tolist()
        return filled(FWE, FWE_PREFIX, " ".join(vocabulary[i] for i in order), (), answers)

    return Sized(prompt, spec.length)


def zeta_counts(total: int, ranks: int) -> np.ndarray:
    """Return the count of each rank from 1 on: floor(total * rank^-alpha / zeta(alpha))."""
    return (total * np.arange(1, ranks + 1) ** -ALPHA / _ZETA).astype(int)


def check_frequent_words(prompt: Prompt, length: int) -> None:
    """Refuse a text in which another word is as frequent as the third most frequent one.

    Raises:
      TaskInputError: that is so; the message names the length.
    """
    text = prompt.input[slice(*prompt.context)].split(" ")
    third = text.count(prompt.outputs[-1])
    others = [word for word in set(text) if word not in (DOTS, *prompt.outputs)]
    if third <= max((text.count(word) for word in others), default=0):
        raise TaskInputError(
            f"length {length} is too short for ruler_fwe: its third word is not more frequent than "
            "the fourth; raise evaluation.lengths"
        )
