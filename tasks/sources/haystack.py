"""Running text to hide needles in: the sentences of essays, or made-up ones without essays."""

import functools
import importlib.resources
import itertools
import json
import re
from collections.abc import Callable, Iterator

import numpy as np

from tasks.errors import TaskInputError
from tasks.prompts.sentences import ESSAY, split_sentences
from tasks.sources.essays import read_essays

# Longer sentences are lists, tables or code.
LONGEST_SENTENCE = 600

# A place where essays were joined without a space: "accelerating.We".
_JOINED = re.compile(r"(?<=[a-z)\]][.!?])(?=[A-Z][a-z' ])")

# A gap of a template in own_sentences.json, named for the list that fills it.
_GAP = re.compile(r"\{(\w+)\}")
# Sentences drawn at a time.
_CHUNK = 512


def haystack(data_dir: str, rng: np.random.Generator) -> Callable[[int], list[str]]:
    """Return a function that returns the first sentences of a running text, any number of them.

    If the data folder has essays (`tasks/sources/essays.py`), the text is their sentences in order
    from a random one on, and starts again at their end: the usual 0.5 MB of essays hold some
    110,000 tokens, and a longer text repeats them. Otherwise the sentences are made up. Among
    7,000, about 128K tokens, a short sentence may come twice, but hardly ever two in a row.
    """
    sentences = essay_sentences(data_dir)
    endless: Iterator[str]
    if sentences:
        first = int(rng.integers(len(sentences)))
        endless = itertools.islice(itertools.cycle(sentences), first, None)
    else:
        endless = own_sentences(rng)
    known: list[str] = []

    def beginning(number: int) -> list[str]:
        known.extend(itertools.islice(endless, max(0, number - len(known))))
        return known[:number]

    return beginning


def own_sentences(rng: np.random.Generator) -> Iterator[str]:
    """Yield made-up sentences without end: drawn templates with drawn phrases in their gaps."""
    templates = _templates()
    most_gaps = max(len(lists) for _, lists in templates)
    while True:
        drawn = rng.random((_CHUNK, 1 + most_gaps))
        for template, *gaps in drawn.tolist():
            pattern, lists = templates[int(template * len(templates))]
            words: list[str] = []
            for choices, gap in zip(lists, gaps, strict=False):
                place = int(gap * len(choices))
                # Not twice the same phrase: nobody asks himself.
                words.append(choices[place - 1] if choices[place] in words else choices[place])
            sentence = pattern.format(*words)
            yield sentence[0].upper() + sentence[1:]


@functools.cache
def _templates() -> list[tuple[str, list[list[str]]]]:
    """Read each template, with gaps "{}", and the lists that fill its gaps, in order."""
    file = importlib.resources.files("tasks.sources") / "own_sentences.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    return [
        (_GAP.sub("{}", template), [content[name] for name in _GAP.findall(template)])
        for template in content["templates"]
    ]


@functools.lru_cache(maxsize=8)
def essay_sentences(data_dir: str) -> tuple[str, ...]:
    """Return the sentences of the essays in a data folder, () if it has no essays; split once.

    Raises:
      TaskInputError: see `read_essays`; or all sentences are absurdly long.
    """
    text = read_essays(data_dir)
    sentences = tuple(read_sentences(text))
    if text and not sentences:
        raise TaskInputError(
            f"the essays in config.data.dir = {data_dir!r} have no sentence of at most "
            f"{LONGEST_SENTENCE} characters; give essays, or remove them"
        )
    return sentences


@functools.lru_cache(maxsize=8)
def essay_text(data_dir: str) -> str:
    """Return the sentences of the essays in a data folder as one text, "" if it has none."""
    return " ".join(essay_sentences(data_dir))


def read_sentences(text: str) -> list[str]:
    """Return the sentences of essays, with single spaces, without absurdly long sentences."""
    text = _JOINED.sub(" ", " ".join(text.split()))
    return [piece for piece in split_sentences(text, ESSAY) if len(piece) <= LONGEST_SENTENCE]
