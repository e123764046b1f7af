"""RULER's needles in a haystack: eight tasks with different haystacks, keys and values."""

import bisect
import dataclasses
import functools
import itertools
import uuid
from collections.abc import Sequence

import numpy as np

from tasks.errors import TaskInputError
from tasks.prompts.context import Range
from tasks.prompts.sentences import RULER, split_sentences
from tasks.sources.essays import FILES, read_essays
from tasks.suites.ruler import words
from tasks.suites.ruler.prompts import (
    NEEDLE,
    NIAH,
    NIAH_ONE,
    NIAH_ONE_PREFIX,
    NIAH_PREFIX,
    NOISE,
    Prompt,
    RowSpec,
    Sized,
    filled,
)

# The depths at which a needle may stand in essays, in percent of the sentences.
DEPTHS = np.round(np.linspace(0, 100, 40)).astype(int)


@dataclasses.dataclass(frozen=True)
class Niah:
    """The arguments of one task.

    Attributes:
      haystack: "noise" (one line repeated), "essay", or "needle" (needles with other keys).
      key, value: "word", "number" or "uuid".
      keys, values, queries: the number of keys in the text, of values of each key, and of keys that
        are asked for.
    """

    haystack: str
    key: str
    value: str
    keys: int = 1
    values: int = 1
    queries: int = 1


def draw(rng: np.random.Generator, kind: str) -> str:
    """Draw a key or a value."""
    if kind == "word":
        return words.phrase(rng)
    if kind == "number":
        return str(rng.integers(10**6, 10**7))
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def _draw_new(rng: np.random.Generator, kind: str, taken: set[str]) -> str:
    """Draw a key or value that is not in `taken`, and add it there."""
    while (drawn := draw(rng, kind)) in taken:
        pass
    taken.add(drawn)
    return drawn


def niah(task: Niah, spec: RowSpec) -> Sized:
    """Draw a row whose haystack can have any size.

    Differences from the benchmark: keys and values are distinct (there the key that is asked for
    may come a second time with another value), sentences are split by a regular expression (there
    by NLTK's punkt), the order of the needles is drawn for each row, and no space stands before a
    needle at the beginning of essays.
    """
    rng = spec.rng()
    taken_keys: set[str] = set()
    taken_values: set[str] = set()
    keys = [_draw_new(rng, task.key, taken_keys) for _ in range(task.keys)]
    values = [[_draw_new(rng, task.value, taken_values) for _ in range(task.values)] for _ in keys]
    needles = [
        NEEDLE.format(kind=task.value, key=key, value=value)
        for key, its in zip(keys, values, strict=True)
        for value in its
    ]
    asked = rng.choice(task.keys, task.queries, replace=False).tolist()
    gold = [task.values * number + i for number in asked for i in range(task.values)]
    outputs = [value for number in asked for value in values[number]]
    order = rng.permutation(len(needles)).tolist()
    shuffled = [needles[number] for number in order]
    query = _enumerate([keys[number] for number in asked])
    one = task.queries * task.values == 1
    template, prefix = (NIAH_ONE, NIAH_ONE_PREFIX) if one else (NIAH, NIAH_PREFIX)
    essay = essays(spec.settings.data_dir) if task.haystack == "essay" else None
    others = spec.rng("others")
    lines: list[str] = []

    def prompt(size: int) -> Prompt:
        places = spec.rng(f"places/{size}")
        if essay is not None:
            context, ranges = in_essays(essay, size, shuffled, places)
        else:
            while task.haystack == "needle" and len(lines) < size:
                key = _draw_new(others, task.key, taken_keys)
                value = _draw_new(others, task.value, taken_values)
                lines.append(NEEDLE.format(kind=task.value, key=key, value=value))
            hay = lines[:size] if task.haystack == "needle" else [NOISE] * size
            context, ranges = in_lines(hay, shuffled, places)
        return filled(
            template,
            prefix,
            context,
            [ranges[order.index(number)] for number in gold],
            outputs,
            kind=task.value,
            query=query,
        )

    most = spec.length
    if task.haystack == "needle" and task.key == "word":
        # With more of them, unused keys would be hard to draw.
        most = min(most, words.num_phrases() // 2)
    return Sized(prompt, most)


def _enumerate(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"


def in_lines(
    hay: Sequence[str], needles: Sequence[str], rng: np.random.Generator
) -> tuple[str, list[Range]]:
    """Insert needles, in their order, before lines that are drawn without repetition.

    With fewer lines than needles, several may stand together, or at the end.

    Returns:
      The text, and the range of each needle.
    """
    enough = len(hay) >= len(needles)
    places = rng.choice(len(hay) if enough else len(hay) + 1, len(needles), replace=not enough)
    return _interleaved(hay, needles, sorted(places.tolist()), "\n")


def _interleaved(
    hay: Sequence[str], needles: Sequence[str], places: Sequence[int], joint: str
) -> tuple[str, list[Range]]:
    """Return the text, each needle before the item of its place, and the needles' ranges."""
    parts: list[str] = []
    marks = []
    for (low, high), needle in zip(itertools.pairwise([0, *places]), needles, strict=True):
        parts += hay[low:high]
        marks.append(len(parts))
        parts.append(needle)
    parts += hay[places[-1] :]
    starts = list(itertools.accumulate((len(part) + len(joint) for part in parts), initial=0))
    return joint.join(parts), [(starts[mark], starts[mark] + len(parts[mark])) for mark in marks]


@dataclasses.dataclass(frozen=True)
class Essays:
    """The sentences of essays, and the number of words up to the end of each sentence."""

    sentences: tuple[str, ...]
    words: tuple[int, ...]


@functools.lru_cache(maxsize=4)
def essays(data_dir: str) -> Essays:
    """Read the essays of a data folder and split them into sentences.

    Raises:
      TaskInputError: there are no essays, or a file is damaged.
    """
    if not data_dir:
        raise TaskInputError(
            "RULER's essay tasks need essays: set config.data.dir to the folder that holds "
            f"{' or '.join(FILES)} (a text file, or JSON as the benchmark's script writes it)"
        )
    text = read_essays(data_dir)
    if not text:
        raise TaskInputError(
            f"config.data.dir = {data_dir!r} has no {' or '.join(FILES)} for RULER's essay tasks; "
            "put a text file of essays there under that name"
        )
    sentences = tuple(split_sentences(text, RULER))
    counts = itertools.accumulate(len(sentence.split(" ")) for sentence in sentences)
    return Essays(sentences, tuple(counts))


def in_essays(
    essay: Essays, size: int, needles: Sequence[str], rng: np.random.Generator
) -> tuple[str, list[Range]]:
    """Insert needles between the sentences of the first `size` words, at depths of 40 even steps.

    The essays start again at their end, as in the benchmark.
    """
    rounds, rest = divmod(size, essay.words[-1])
    whole = bisect.bisect_right(essay.words, rest)
    hay = [*essay.sentences * rounds, *essay.sentences[:whole]]
    before = essay.words[whole - 1] if whole else 0
    if rest > before:
        hay.append(" ".join(essay.sentences[whole].split(" ")[: rest - before]))
    depths = np.sort(rng.choice(DEPTHS, len(needles), replace=False))
    places = [int(len(hay) * (depth / 100)) for depth in depths]
    return _interleaved(hay, needles, places, " ")
