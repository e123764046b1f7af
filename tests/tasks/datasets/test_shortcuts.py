"""No data set can be answered without its text, or by the look of its options.

Each shortcut is tried on many prompts, and may not be right more often than chance, with the 95 %
interval of so many distinct questions.
"""

import collections
import re

import numpy as np
import pytest

from recallm_jax.evaluation.statistics import wilson_interval
from tasks.datasets.registry import DECLARED, find
from tasks.prompts.settings import TaskSettings
from tasks.scoring.answers import normalise
from tasks.sources.corpus import words
from tests.oracles.real_data import needs_shared, shared_data

SHARED = shared_data()


def examples(name, count, length=4096, data_dir="", fillers=12, split="validation"):
    """Yield examples of a split's stream, those whose rows fit."""
    settings = TaskSettings(length, data_dir=str(data_dir))
    for index in range(count):
        draft = find(name).draft(settings, split, 1, index, 0)
        yield draft.example(min(draft.most, fillers))


def question_of(example):
    """Return the user's text without its documents."""
    text, end = "", 0
    for low, high in example.documents:
        text, end = text + example.user[end:low], high
    return text + example.user[end:]


def capitals(text):
    return set(re.findall(r"\b[A-Z]\w+", text))


def number(text):
    found = re.search(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[0].replace(",", "")) if found else 0.0


def earliest(option, wanted):
    """Return a number that is the higher, the earlier one of some words comes."""
    found = re.findall(r"\w+", option.casefold())
    return -next((place for place, word in enumerate(found) if word in wanted), len(option))


def asked(example):
    return example.question_id.partition(": ")[2]


def names(question):
    return {word.casefold() for word in re.findall(r"(?<=\s)[A-Z]\w+", question)}


SAID = frozenset(words("what who where when why how does did happens story describe"))


# From (an option, all options, the example) to how likely a guesser thinks it.
GUESSES = {
    "longest": lambda option, *_: len(option),
    "shortest": lambda option, *_: -len(option),
    "most of the text's names": lambda option, _, example: (
        len(capitals(option) & capitals(example.user[slice(*example.documents[0])]))
        if example.documents
        else 0
    ),
    "most of the question's words": lambda option, _, example: len(
        set(words(option)) & set(words(example.question_id))
    ),
    "fewest of the question's words": lambda option, _, example: (
        -len(set(words(option)) & set(words(example.question_id)))
    ),
    "the question's names earliest": lambda option, _, example: earliest(
        option, names(asked(example))
    ),
    "the question's words earliest": lambda option, _, example: earliest(
        option, set(words(asked(example))) - SAID
    ),
    "the question's words most often": lambda option, _, example: sum(
        word in set(words(asked(example))) - SAID for word in words(option)
    ),
    "says what is set where": lambda option, _, example: (
        ("setting" in asked(example) and bool(re.search(r"set (in|on|at)|takes? place", option)))
        + earliest(option, names(asked(example))) / 1000
    ),
    "nearest the middle": lambda option, options, _: (
        -abs(number(option) - np.median([number(other) for other in options]))
    ),
    "largest": lambda option, *_: number(option),
    "smallest": lambda option, *_: -number(option),
    "roundest": lambda option, *_: len(option) - len(option.rstrip("0")) + option.endswith("5") / 2,
    "shares most digits": lambda option, options, _: sum(
        (collections.Counter(option) & collections.Counter(other)).total() for other in options
    ),
    "nearest to the others": lambda option, options, _: (
        -sum(abs(number(option) - number(other)) for other in options)
    ),
    "most others at few steps": lambda option, options, _: sum(
        abs(number(option) - number(other)) in (1, 2, 3, 4, 5, 6, 8, 10, 12, 20)
        or number(option) in (2 * number(other), 4 * number(other), 10 * number(other))
        for other in options
    ),
    "farthest from its nearest": lambda option, options, _: min(
        abs(number(option) - number(other)) for other in options if other != option
    ),
}


@needs_shared
@pytest.mark.parametrize(
    ("name", "split", "count"), [("quality", "validation", 160), ("mcqa_math", "train", 1800)]
)
def test_options_do_not_show_which_is_right(name, split, count):
    right: dict[str, dict[str, list[float]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for example in examples(name, count, 131_072, SHARED, split=split):
        options, (answer,) = example.truth["choices"], example.truth["answers"]
        for title, guess in GUESSES.items():
            scores = {
                a: guess(text, list(options.values()), example) for a, text in options.items()
            }
            best = [a for a, score in scores.items() if score == max(scores.values())]
            right[title][example.question_id].append((answer in best) / len(best))
    for title, found in right.items():
        rate = np.mean([np.mean(values) for values in found.values()])
        _, high = wilson_interval(len(found) / 4, len(found))
        assert rate <= high, (title, rate, high, len(found))


# From the sorted keys to the one that a guesser takes.
KEYS = {
    "median": lambda keys: keys[len(keys) // 2],
    "middle": lambda keys: min(keys, key=lambda key: abs(2 * key - keys[0] - keys[-1])),
    "smallest": lambda keys: keys[0],
    "largest": lambda keys: keys[-1],
    "closest pair": lambda keys: keys[1 + int(np.argmin(np.diff(keys)))],
    "widest gap": lambda keys: keys[1 + int(np.argmax(np.diff(keys)))],
    "nearest to the others": lambda keys: min(
        keys, key=lambda key: np.partition(np.abs(np.array(keys) - key), 3)[3]
    ),
}


@pytest.mark.parametrize("fillers", [8, 60, 150, 400])
def test_the_key_must_be_worked_out(fillers):
    """No rule about the keys alone finds the solution: half the time it is in either half."""
    count, right, halves = 400, collections.Counter(), 0
    for example in examples("math_retrieval", count, fillers=fillers):
        text = example.user[slice(*example.documents[0])]
        keys = sorted(map(int, re.findall(r"-?\d+(?=:\n|\": \"|,\w)", text)))
        assert len(keys) == fillers + 1
        solution = int(example.truth["math_answer"])
        halves += 0.5 if solution == keys[fillers // 2] else solution < keys[fillers // 2]
        right.update(title for title, guess in KEYS.items() if guess(keys) == solution)
    # Three standard deviations, as there are seven guesses and four sizes.
    _, most = wilson_interval(count / (fillers + 1), count, z=3.0)
    assert all(right[title] / count <= most for title in KEYS), right
    assert abs(halves / count - 0.5) <= 0.075


@needs_shared
@pytest.mark.parametrize("name", ["hotpotqa", "musique", "2wikimultihopqa", "nq", "triviaqa"])
def test_questions_do_not_hold_their_answers(name):
    """A comparison names its candidates: then half of them would be right by chance."""
    found: dict[str, float] = {}
    for example in examples(name, 80, data_dir=SHARED):
        question = f" {normalise(question_of(example))} "
        held = any(f" {normalise(answer)} " in question for answer in example.truth["answers"])
        compared = " or " in question or " both " in question or " same " in question
        yes_no = normalise(example.truth["answers"][0]) in ("yes", "no")
        found[example.question_id] = float(held and not compared and not yes_no)
    assert np.mean(list(found.values())) <= 0.1


# The user's own documents are as they are. The made-up rows of qampari have few documents, and the
# last one is never gold, as in the paper's release.
AS_THEY_ARE = ("own_questions", "qampari")
WITH_GOLD = [
    dataset.name
    for dataset in DECLARED
    if dataset.reward.gold_mode not in ("always_1", "used_recall")
    and dataset.name not in AS_THEY_ARE
]


@pytest.mark.parametrize("name", WITH_GOLD)
def test_the_evidence_can_not_be_told_by_its_place(name, data_dir):
    """The first, the last and the middle item are gold no more often than any other."""
    count, places = 200, []
    for example in examples(name, count, data_dir=data_dir, fillers=80):
        (low, high), gold = example.documents[0], example.gold[-1 - len(places) % len(example.gold)]
        places.append(((gold[0] + gold[1]) / 2 - low) / (high - low))
    # Thirds of the context hold a third of the items each.
    shares = np.histogram(places, bins=3, range=(0, 1))[0]
    # Of three shares the largest: the interval is 99 %.
    _, most = wilson_interval(count / 3, count, z=2.58)
    assert max(shares) <= most * count


@pytest.mark.parametrize("name", ["majority_vote", "top_n_vote"])
def test_votes_must_be_counted(name):
    """The option that is longest, first in the alphabet, or named last is right by chance."""
    count, rates, chances = 200, collections.Counter(), 0.0
    for example in examples(name, count):
        text = example.user[slice(*example.documents[0])]
        parts = example.truth.get("parts", [example.truth["answers"]])
        names = [aliases[0] for aliases in parts]
        options = [*names, *example.truth["wrong"]]
        chances += len(names) / len(options)
        for title, guess in {"longest": len, "alphabet": lambda name: -ord(name[0])}.items():
            best = [name for name in options if guess(name) == max(map(guess, options))]
            rates[title] += len(set(best) & set(names)) / len(best)
        rates["last"] += max(options, key=text.rfind) in names
    _, high = wilson_interval(chances, count)
    for title in ("longest", "alphabet"):
        assert rates[title] / count <= high, (title, rates[title], chances)
    # The last vote is for one of the leading options as often as they have votes.
    assert rates["last"] / count < 0.75
