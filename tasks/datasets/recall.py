"""Category `recall`: look up the value of a key (dataset `retrieval`)."""

import functools
import string
from collections.abc import Callable

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.prompts.context import Draft, Example, around, generator, insert_at_depth, question_place
from tasks.prompts.demonstrations import lookup_demonstration
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import answers
from tasks.scoring.reward import RewardRow, best_of

# The text before the pairs, of a pair, between two pairs, and after the last one.
LAYOUTS: dict[str, tuple[str, Callable[[int, str], str], str, str]] = {
    "lines": ("", lambda key, value: f"Key {key}:\n{value}", "\n", ""),
    "json": ("{\n  ", lambda key, value: f'"{key}": "{value}"', ",\n  ", "\n}"),
    "csv": ("key,value\n", lambda key, value: f"{key},{value}", "\n", ""),
}
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
    """Return the draft of a lookup of the value of `keys[0]` among pairs with the other keys."""
    layout = settings.formats[int(rng.integers(len(settings.formats)))]
    letters = rng.integers(len(ALPHANUMERIC), size=(len(keys), settings.value_length))
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    place = question_place(rng)
    depth = rng.random()

    def pair(number: int) -> tuple[int, str]:
        return int(keys[number]), "".join([ALPHANUMERIC[i] for i in letters[number]])

    key, value = pair(0)
    head, item, joint, tail = LAYOUTS[layout]
    gold = item(key, value)
    fillers: list[str] = []

    def example(num_fillers: int) -> Example:
        fillers.extend(item(*pair(1 + i)) for i in range(len(fillers), num_fillers))
        before, after = around(question, introduction, place)
        shown = insert_at_depth(fillers[:num_fillers], gold, depth)
        document = head + joint.join(shown) + tail
        first = len(before)
        preceding = shown[: int(depth * num_fillers)]
        low = first + len(head) + len(joint) * len(preceding) + sum(map(len, preceding))
        recalled = (low, low + len(gold))
        return Example(
            system=system,
            user=before + document + after,
            documents=((first, first + len(document)),),
            gold=(recalled,),
            truth={"answers": [value], "math_answer": math_answer},
            demonstrate=functools.partial(
                lookup_demonstration,
                working=working,
                target=f"key {key}",
                recalled=(recalled,),
                answer=value,
            ),
        )

    return Draft(example, most=min(len(keys) - 1, MOST_PAIRS))


value, exact_value = best_of(answers.contains_value), best_of(answers.exact_match)
ROW = RewardRow(hit_threshold=0.9, min_span=5, gold_mode="standard", free_spans=2)
RETRIEVAL = Dataset(
    name="retrieval",
    category="recall",
    draft=retrieval,
    score=value,
    exact_match=exact_value,
    metrics={"exact_match": exact_value, "answer_contained": value},
    reward=ROW,
)
