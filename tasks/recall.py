"""Category `recall`: look up the value of a key (dataset `retrieval`)."""

import functools
import json
import string
from collections.abc import Sequence

import numpy as np

from tasks.context import Draft, Example, around, generator, insert_at_depth, question_place
from tasks.demonstrations import lookup_demonstration
from tasks.settings import TaskSettings
from tasks.system_prompts import SYSTEMS

ALPHANUMERIC = string.ascii_letters + string.digits
KEY_RANGE = (-10_000, 10_000)
MOST_PAIRS = 19_000

INTRODUCTIONS = (
    "Here is a list of keys and their values.",
    "The data below map integer keys to values.",
    "Below you find pairs of a key and a value.",
    "Use this table of keys and values.",
)
QUESTIONS = (
    "What is the value of key {key}?",
    "Which value belongs to key {key}?",
    "Look up key {key} and give its value.",
    "Find the value stored under key {key}.",
)


def retrieval(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw an example whose context can hold any number of other pairs.

    Keys are integers from -10,000 to 9,999, values random letters and digits
    (arXiv 2604.09494, appendix B).
    """
    del split, attempt
    rng = generator("retrieval", stream, index)
    keys = rng.permutation(np.arange(*KEY_RANGE))
    key = int(keys[0])
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(key=key)
    return lookup(rng, settings, keys=keys, question=question, working="", math_answer="")


def lookup(
    rng: np.random.Generator,
    settings: TaskSettings,
    *,
    keys: np.ndarray,
    question: str,
    working: str,
    math_answer: str,
) -> Draft:
    """Return an example that asks for the value of `keys[0]` among pairs with the other keys."""
    layout = settings.formats[int(rng.integers(len(settings.formats)))]
    letters = rng.integers(len(ALPHANUMERIC), size=(len(keys), settings.value_length))
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    place = question_place(rng)
    depth = rng.random()

    def pair(number: int) -> tuple[int, str]:
        return int(keys[number]), "".join(ALPHANUMERIC[i] for i in letters[number])

    gold = pair(0)
    others: list[tuple[int, str]] = []

    def example(num_fillers: int) -> Example:
        others.extend(pair(1 + i) for i in range(len(others), num_fillers))
        pairs = insert_at_depth(others[:num_fillers], gold, depth)
        document, ranges = render(pairs, layout)
        before, after = around(question, introduction, place)
        first = len(before)
        low, high = ranges[int(depth * num_fillers)]
        recalled = (first + low, first + high)
        return Example(
            system=system,
            user=before + document + after,
            documents=((first, first + len(document)),),
            gold=(recalled,),
            truth={"answers": [gold[1]], "math_answer": math_answer},
            demonstrate=functools.partial(
                lookup_demonstration,
                working=working,
                target=f"key {gold[0]}",
                recalled=(recalled,),
                answer=gold[1],
            ),
        )

    return Draft(example, most=min(len(keys) - 1, MOST_PAIRS))


def render(pairs: Sequence[tuple[int, str]], layout: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the pairs as text, and the character range of each: lines, JSON or CSV."""
    head, item, joint, tail = {
        "lines": ("", "Key {key}:\n{value}", "\n", ""),
        "json": ("{{\n  ", '"{key}": {quoted}', ",\n  ", "\n}}"),
        "csv": ("key,value\n", "{key},{value}", "\n", ""),
    }[layout]
    text, ranges = head.replace("{{", "{"), []
    for number, (key, value) in enumerate(pairs):
        text += joint if number else ""
        rendered = item.format(key=key, value=value, quoted=json.dumps(value))
        ranges.append((len(text), len(text) + len(rendered)))
        text += rendered
    return text + tail.replace("}}", "}"), ranges


DRAFTS = {"retrieval": retrieval}
