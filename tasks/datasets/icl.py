"""Category `icl`: give a text the label of the examples like it (`banking77`, `massive`)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Demonstration, Draft, Example, Range, around, generator, join
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import answers
from tasks.scoring.reward import RewardRow, best_of
from tasks.sources.table import Source, pick, plain_text, read_table

# The layout of a demo, its rate, and the text between two demos.
STYLES = (
    ("{text}\nlabel: {label}", 0.80, "\n\n"),
    ("{text} | label: {label}", 0.05, "\n"),
    ("{text} -> label: {label}", 0.05, "\n"),
    ("{text} (label: {label})", 0.10, "\n"),
)
NUMBERED = 0.5
# The requests of these data sets are shorter; a longer text is not one.
MAX_CHARACTERS = 2_000

INTRODUCTIONS = (
    "These are requests of users, each with the label of its intent.",
    "Below, every message comes with a label; messages with one purpose share one label.",
    "Learn from these labelled examples which label belongs to which kind of request.",
    "What follows are sentences and their labels, in no particular order.",
)
QUESTIONS = (
    "Which label belongs to this request? Give the label alone.\n\n{text}",
    "Label the next message as the examples are labelled; answer with nothing but its label.\n\n"
    "{text}",
    "Here is a new request. By the examples above, what is its label?\n\n{text}",
    "Find examples with the purpose of the following sentence and answer with their label.\n\n"
    "{text}",
)
OPENINGS = (
    "Which examples ask for the same thing?\n",
    "I look for examples that mean the same.\n",
    "Let me recall examples of this kind.\n",
    "First I need an example with the same purpose.\n",
)
FURTHER = ("\nAnother one like it:\n", "\nAnd one more:\n", "\nThe same in other words:\n")
CONCLUSIONS = (
    "\nThe request is of this kind, so its label is {label}.",
    "\nThat is the purpose of the request too: label {label}.",
    "\nSo I choose {label}.",
)
CLOSINGS = (
    "The examples with this purpose carry that label.",
    "The label is that of the examples like it.",
    "Requests of this kind are so labelled in the context.",
)


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A labelled request.

    Attributes:
      part: the split that the row names, "train" or "validation" (others are not used), or "" if
        its file names the split.
    """

    text: str
    label: str
    part: str = ""


def _utterance(raw: Any, text: str, label: str, part: str = "") -> Utterance:
    """Read a row. Its text becomes one line, so that a demo cannot contain the end of one."""
    name = " ".join(plain_text(raw, label, most=200).split())
    if not any(map(str.isalnum, name)):
        raise UnfitRowError(f"{label} has no letter")
    sentence = " ".join(plain_text(raw, text, most=MAX_CHARACTERS).split())
    return Utterance(sentence, name, part)


def _parse_massive(raw: Any) -> Utterance:
    if isinstance(raw, dict) and "utt" not in raw and "partition" not in raw:
        return _utterance(raw, "text", "intent")
    part = plain_text(raw, "partition")
    return _utterance(raw, "utt", "intent", "validation" if part == "dev" else part)


def _key(row: Utterance) -> str:
    return row.text.casefold()


SOURCES = {
    "banking77": Source(
        dataset="banking77",
        files={
            "train": ("banking77*train.csv", "banking77/train.csv", "banking_data/train.csv"),
            "validation": ("banking77*test.csv", "banking77/test.csv", "banking_data/test.csv"),
        },
        where="github.com/PolyAI-LDN/task-specific-datasets",
        parse=functools.partial(_utterance, text="text", label="category"),
        key=_key,
    ),
    "massive": Source(
        dataset="massive",
        files={
            split: (
                "en-US.jsonl",
                "data/en-US.jsonl",
                "*/data/en-US.jsonl",
                "massive*/en-US.jsonl",
                *stand_in,
            )
            for split, stand_in in (
                ("train", ("slurp*train*.csv", "slurp_devel*.csv")),
                ("validation", ("slurp_test*.csv",)),
            )
        },
        where="github.com/alexa/massive: 1.1/data/en-US.jsonl",
        parse=_parse_massive,
        key=_key,
    ),
}


@dataclasses.dataclass(frozen=True)
class _Pool:
    """The rows of a split, the names of their labels, and each row's label as a number."""

    rows: tuple[Utterance, ...]
    labels: tuple[str, ...]
    label_of_row: np.ndarray
    row_of_key: Mapping[str, int]


@functools.lru_cache(maxsize=16)
def _pool(dataset: str, data_dir: str, split: str) -> _Pool:
    rows = read_table(SOURCES[dataset], data_dir, split).rows
    rows = tuple(row for row in rows if row.part in ("", split))
    labels = sorted({row.label for row in rows})
    least = 2 if split == "train" else 1
    if len(labels) < least:
        raise TaskInputError(
            f"dataset {dataset} has rows of {len(labels)} labels for {split} under "
            f"config.data.dir = {data_dir!r}, but needs at least {least}; get all of it from "
            f"{SOURCES[dataset].where}"
        )
    place = {label: number for number, label in enumerate(labels)}
    return _Pool(
        rows,
        tuple(labels),
        np.array([place[row.label] for row in rows]),
        {_key(row): number for number, row in enumerate(rows)},
    )


def rounds(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return an order of the rows in shuffled rounds, in each of which every label occurs once.

    No row comes twice: a label is left out of the rounds when its rows are used up.

    Args:
      labels: the label of each row, from 0.
    """
    shuffled = rng.permutation(len(labels))
    by_label = np.argsort(labels[shuffled], kind="stable")
    sizes = np.bincount(labels)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    number = np.empty(len(labels), int)
    number[by_label] = np.arange(len(labels)) - starts
    return shuffled[np.lexsort((rng.random(len(labels)), number))]


def _draft(
    dataset: str, settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw an item to be labelled, after demos from the training rows, never with its own text.

    Each label occurs once in every round of demos, as long as it has rows left, and no demo is
    repeated. A data set with fewer demos than the target length has room for makes a shorter prompt
    (SLURP's development file of 2,033 rows, the stand-in for MASSIVE's 11,514, ends at some 30K
    tokens). At least one demo has the item's label, at a uniform depth if the first round is not
    complete. Half of the examples name labels by integers, drawn for each example, half by the data
    set's names.

    Raises:
      UnfitRowError: no demo has the item's label.
      TaskInputError: files are missing, or have fewer than two labels.
    """
    # Each attempt draws other demos too, since the item's gold demo may be the one too long.
    rng = generator(f"{dataset}/{attempt}", stream, index)
    pool = _pool(dataset, settings.data_dir, "train")
    item = pick(_pool(dataset, settings.data_dir, split).rows, stream, index, attempt)
    order = rounds(rng, pool.label_of_row)
    order = order[order != pool.row_of_key.get(_key(item), -1)]
    carries = np.array([label == item.label for label in pool.labels])[pool.label_of_row[order]]
    if not carries.any():
        raise UnfitRowError("a label that no other example has")
    numbers = rng.permutation(len(pool.labels))
    if rng.random() < NUMBERED:
        names = {label: str(n) for label, n in zip(pool.labels, numbers, strict=True)}
    else:
        names = {label: label for label in pool.labels}
    style, _, joint = STYLES[rng.choice(len(STYLES), p=[share for _, share, _ in STYLES])]
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(text=item.text)
    before, after = around(question, introduction, "end")
    depth = rng.random()
    first_gold = int(np.argmax(carries))
    texts: list[str] = []

    def example(num_fillers: int) -> Example:
        chosen = order[len(texts) : num_fillers + 1]
        texts.extend(
            style.format(text=pool.rows[row].text, label=names[pool.rows[row].label])
            for row in chosen
        )
        demos, gold = texts[: num_fillers + 1], np.flatnonzero(carries[: num_fillers + 1])
        if first_gold > num_fillers:
            row = order[first_gold]
            text = style.format(text=pool.rows[row].text, label=names[item.label])
            place = int(depth * (num_fillers + 1))
            demos, gold = [*demos[:place], text, *demos[place:num_fillers]], np.array([place])
        document, ranges = join(demos, joint, len(before))
        label = names[item.label]
        return Example(
            system=system,
            user=before + document + after,
            documents=((len(before), len(before) + len(document)),),
            gold=tuple(ranges[place] for place in gold),
            truth={"answers": [label], "gold_labels": [f"label: {label}"] * len(gold)},
            question_id=item.text,
            demonstrate=functools.partial(
                _demonstrate,
                text=item.text,
                gold=[(ranges[place], demos[place]) for place in gold],
                label=label,
                most=settings.max_recall_length,
            ),
        )

    return Draft(example, most=len(order) - 1, from_row=True)


def _demonstrate(
    rng: np.random.Generator,
    *,
    text: str,
    gold: Sequence[tuple[Range, str]],
    label: str,
    most: int,
) -> Demonstration:
    """Recall the two gold demos that share the most words with the text (or the only one).

    Args:
      most: the most tokens of a span. Demos that may be longer are taken last, because a cut demo
        would lack its label.
    """
    words = set(text.casefold().split())

    def rank(number: int) -> tuple[bool, int]:
        demo = gold[number][1]
        return len(demo) > 2 * most, -len(words & set(demo.casefold().split()))

    best = sorted(rng.permutation(len(gold)).tolist(), key=rank)[:2]
    thought: list[str | Range] = [OPENINGS[rng.integers(len(OPENINGS))]]
    for number, place in enumerate(best):
        thought += [FURTHER[rng.integers(len(FURTHER))]] if number else []
        thought.append(gold[place][0])
    thought.append(CONCLUSIONS[rng.integers(len(CONCLUSIONS))].format(label=label))
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], label)


label = best_of(answers.is_equal_normalised)


def _declared(name: str) -> Dataset:
    return Dataset(
        name=name,
        category="icl",
        draft=functools.partial(_draft, name),
        score=label,
        metrics={"accuracy": label},
        reward=RewardRow(
            hit_threshold=0.95,
            min_span=7,
            gold_mode="top_k_gold",
            free_spans=2,
            top_k=2,
            many_shot=True,
        ),
        source=SOURCES[name],
    )


BANKING77, MASSIVE = _declared("banking77"), _declared("massive")
