"""Category `recall`: look up the value of a key (dataset `retrieval`)."""

import json
import string
from collections.abc import Callable, Sequence

import numpy as np

from tasks.context import Example, generator, insert_at_depth, question_place

FORMATS = ("lines", "json", "csv")
ALPHANUMERIC = string.ascii_letters + string.digits
KEY_RANGE = (-10_000, 10_000)

SYSTEMS = (
    "You reason carefully. You have a recall tool: <|start_recall|> copies text from the context "
    "word for word until <|end_recall|>. Recall what you need and no more. Think first, close the "
    "thought with </think>, then end with one line: Answer: your answer",
    "Think before you answer, inside <think> and </think>. Whenever you need a fact from the "
    "context, quote it exactly between <|start_recall|> and <|end_recall|>, but only when it "
    "helps. The last line of your reply is Answer: followed by the answer.",
    "You are a precise assistant. Reason inside <think>…</think>, quoting the passage you rely on "
    "between <|start_recall|> and <|end_recall|>. Then give one final line of the form "
    "Answer: value",
)
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


def retrieval(
    rng: np.random.Generator, *, value_length: int, formats: Sequence[str]
) -> Callable[[int], Example]:
    """Draw an example whose context can hold any number of other pairs.

    Keys are integers from -10,000 to 9,999, values random letters and digits
    (arXiv 2604.09494, appendix B).

    Returns:
      The example as a function of the number of other pairs, at most 19,999.
    """
    keys = rng.permutation(np.arange(*KEY_RANGE))
    key = int(keys[0])
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(key=key)
    return lookup(
        rng,
        keys=keys,
        question=question,
        working="",
        math_answer="",
        value_length=value_length,
        formats=formats,
    )


def lookup(
    rng: np.random.Generator,
    *,
    keys: np.ndarray,
    question: str,
    working: str,
    math_answer: str,
    value_length: int,
    formats: Sequence[str],
) -> Callable[[int], Example]:
    """Return an example that asks for the value of `keys[0]` among pairs with the other keys."""
    layout = formats[int(rng.integers(len(formats)))]
    letters = rng.integers(len(ALPHANUMERIC), size=(len(keys), value_length))
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    place = question_place(rng)
    depth = rng.random()

    def pair(number: int) -> tuple[int, str]:
        return int(keys[number]), "".join(ALPHANUMERIC[i] for i in letters[number])

    gold = pair(0)

    def example(num_fillers: int) -> Example:
        pairs = insert_at_depth([pair(1 + i) for i in range(num_fillers)], gold, depth)
        document, ranges = render(pairs, layout)
        before = f"{question}\n\n" if place in ("beginning", "both") else ""
        before += f"{introduction}\n\n"
        after = f"\n\n{question}" if place in ("end", "both") else ""
        first = len(before)
        low, high = ranges[pairs.index(gold)]
        return Example(
            system=system,
            user=before + document + after,
            documents=((first, first + len(document)),),
            gold=((first + low, first + high),),
            answers=(gold[1],),
            working=working,
            target=f"key {gold[0]}",
            math_answer=math_answer,
        )

    return example


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


def draw(seed: int, index: int, *, value_length: int, formats: Sequence[str]):
    """Return example `index` of the data set with this seed, as a function of its size."""
    rng = generator("retrieval", seed, index)
    return retrieval(rng, value_length=value_length, formats=formats)
