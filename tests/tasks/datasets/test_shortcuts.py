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


def examples(name, count, length=4096, data_dir="", fillers=12):
    """Yield examples of the validation stream, those whose rows fit."""
    settings = TaskSettings(length, data_dir=str(data_dir))
    for index in range(count):
        draft = find(name).draft(settings, "validation", 1, index, 0)
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
    "nearest the middle": lambda option, options, _: (
        -abs(number(option) - np.median([number(other) for other in options]))
    ),
    "largest": lambda option, *_: number(option),
    "smallest": lambda option, *_: -number(option),
}


@needs_shared
@pytest.mark.parametrize("name", ["quality", "mcqa_math"])
def test_options_do_not_show_which_is_right(name):
    right: dict[str, dict[str, list[float]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for example in examples(name, 160, 131_072, SHARED):
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
