"""Dataset `multi_niah` of the category `recall`: several needles in running text."""

import dataclasses
import functools
import itertools
import uuid
from collections.abc import Callable, Sequence

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.prompts.context import (
    Demonstration,
    Draft,
    Example,
    Range,
    around,
    generator,
    insert_at_depths,
    question_place,
)
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.words import word_list
from tasks.scoring import candidates
from tasks.scoring.reward import RewardRow, full, of_answer
from tasks.scoring.truth import GroundTruth
from tasks.sources.haystack import essay_text, haystack

MOST_KEYS, MOST_VALUES, MOST_ASKED, MOST_NEEDLES = 10, 5, 6, 16
# The most tokens of one needle, and of all the rest: a short prompt has fewer needles.
NEEDLE_TOKENS, OTHER_TOKENS = 80, 450
MOST_SENTENCES = 12_000

KINDS = ("number", "word", "UUID")
NEEDLES = (
    "A secret {kind} of {key} is {value}.",
    "Remember that {key} goes with the secret {kind} {value}.",
    "One secret {kind} that was kept for {key} is {value}.",
    "For {key} there is the secret {kind} {value}.",
)
INTRODUCTIONS = (
    "The following text hides some secret {kind}s. The rest of it does not matter.",
    "A few sentences of this text tell a secret {kind}.",
    "Read this text and watch for the secret {kind}s between its sentences.",
    "Here is a long text. Here and there a sentence of it names a secret {kind}.",
)
QUESTIONS = (
    "List every secret {kind} that the text gives for {keys}, separated by commas.",
    "For {keys}: give each secret {kind} that stands in the text, with commas between them.",
    "Find the secret {kind} or {kind}s of {keys} and name all of them, separated by commas.",
    "The text has one or more secret {kind}s for {keys}. Name all of them, separated by commas.",
)
FIRST_STEPS = ("I look for {key}.", "First I need {key}.", "Let me recall what is said of {key}.")
NEXT_STEPS = ("Now {key}.", "Next comes {key}.", "Then there is {key}.")
CLOSINGS = (
    "The text says so.",
    "These are all the sentences that name them.",
    "I found them between the other sentences.",
    "This is what the text gives.",
)


@dataclasses.dataclass(frozen=True)
class Needle:
    """A sentence of the context with a key and one of its values."""

    key: str
    value: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of an example, whatever its number of filler sentences.

    Attributes:
      before, after: the user's text around the context.
      beginning: gives the first sentences of the filler text, any number of them.
      needles: those that are asked for, `num_gold` of them, come first.
      depths: where each needle stands in the text, from 0 to 1.
    """

    system: str
    before: str
    after: str
    beginning: Callable[[int], list[str]]
    needles: Sequence[Needle]
    depths: Sequence[float]
    num_gold: int


def multi_niah(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw an example: 1 to 10 keys of 1 to 5 values, 1 to 6 keys asked for, at most 16 needles.

    Each needle stands at its own depth between the sentences of the text. The answer gives the keys
    in the order of the question, and the values of one key in the order of the text. A target
    length below about 1,800 tokens has room for fewer needles.
    """
    del split, attempt
    rng = generator("multi_niah", stream, index)
    room = (settings.target_length - OTHER_TOKENS) // NEEDLE_TOKENS
    num_keys = int(rng.integers(1, 1 + max(1, min(MOST_KEYS, room))))
    most_values = max(1, min(MOST_VALUES, min(MOST_NEEDLES, room) // num_keys))
    num_values = int(rng.integers(1, 1 + most_values))
    asked = int(rng.integers(1, 1 + min(MOST_ASKED, num_keys)))
    kind = KINDS[rng.integers(len(KINDS))]
    text = essay_text(settings.data_dir)
    drawn = names(rng, num_keys * (1 + num_values), text)
    keys = drawn[:num_keys]
    values = drawn[num_keys:] if kind == "word" else codes(rng, kind, len(drawn) - num_keys, text)
    wording = NEEDLES[rng.integers(len(NEEDLES))]
    needles = [
        Needle(key, value, wording.format(kind=kind, key=key, value=value))
        for key, value in zip(np.repeat(keys, num_values).tolist(), values, strict=True)
    ]
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(kind=kind, keys=listed(keys[:asked]))
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))].format(kind=kind)
    before, after = around(question, introduction, question_place(rng))
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    depths = rng.random(len(needles)).tolist()
    beginning = haystack(settings.data_dir, rng)
    parts = Parts(system, before, after, beginning, needles, depths, asked * num_values)
    return Draft(functools.partial(_example, parts), most=MOST_SENTENCES)


def _example(parts: Parts, num_fillers: int) -> Example:
    """Return the example with this number of filler sentences."""
    before, needles, num_gold = parts.before, parts.needles, parts.num_gold
    sentences, places = insert_at_depths(
        parts.beginning(num_fillers), [needle.sentence for needle in needles], parts.depths
    )
    document = " ".join(sentences)
    starts = list(itertools.accumulate([len(text) + 1 for text in sentences], initial=len(before)))
    keys = list(dict.fromkeys(needle.key for needle in needles[:num_gold]))
    order = sorted(range(num_gold), key=lambda n: (keys.index(needles[n].key), places[n]))
    gold = [needles[number] for number in order]
    recalled = tuple((starts[places[number]], starts[places[number] + 1] - 1) for number in order)
    return Example(
        system=parts.system,
        user=before + document + parts.after,
        documents=((len(before), len(before) + len(document)),),
        gold=recalled,
        truth={
            "answers": [" ".join([needle.value for needle in gold])],
            "parts": [[needle.value] for needle in gold],
            "wrong": [needle.value for needle in needles[num_gold:]],
        },
        demonstrate=functools.partial(_demonstrate, gold, recalled),
    )


def names(rng: np.random.Generator, number: int, text: str) -> list[str]:
    """Draw different adjective-noun names that are not in the text."""
    found: dict[str, None] = {}
    adjectives, nouns = word_list("adjectives"), word_list("nouns")
    while len(found) < number:
        adjective, noun = rng.integers((len(adjectives), len(nouns))).tolist()
        name = f"{adjectives[adjective]}-{nouns[noun]}"
        if name not in text:
            found[name] = None
    return list(found)


def codes(rng: np.random.Generator, kind: str, number: int, text: str) -> list[str]:
    """Draw different numbers of seven digits, or UUIDs, that are not in the text."""
    found: dict[str, None] = {}
    while len(found) < number:
        code = (
            str(rng.integers(1_000_000, 10_000_000))
            if kind == "number"
            else str(uuid.UUID(bytes=rng.bytes(16), version=4))
        )
        if code not in text:
            found[code] = None
    return list(found)


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _demonstrate(
    gold: Sequence[Needle], recalled: Sequence[Range], rng: np.random.Generator
) -> Demonstration:
    """Recall the needles of each key asked for, then give their values."""
    first = FIRST_STEPS[rng.integers(len(FIRST_STEPS))]
    following = NEXT_STEPS[rng.integers(len(NEXT_STEPS))]
    thought: list[str | Range] = []
    key = ""
    for needle, place in zip(gold, recalled, strict=True):
        step = following if key else first
        step = "" if needle.key == key else f"{step.format(key=needle.key)}\n"
        thought += [f"\n{step}" if key else step, place]
        key = needle.key
    answer = ", ".join([needle.value for needle in gold])
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], answer)


@of_answer
def several_values(answer: str, truth: GroundTruth) -> float:
    """Return max(0, values found - wrong values) over the values that are asked for."""
    return candidates.several_values(answer, truth.all_parts, truth.wrong)


MULTI_NIAH = Dataset(
    name="multi_niah",
    category="recall",
    draft=multi_niah,
    score=several_values,
    metrics={"exact_match": full(several_values), "values_found": several_values},
    reward=RewardRow(hit_threshold=0.9, min_span=7, gold_mode="standard", free_spans=6),
)
