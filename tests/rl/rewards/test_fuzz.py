"""Any response to any prompt gets a reward in [0, 1], and fast."""

import dataclasses
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl.rewards.composite import Completion, score
from tasks.datasets.paper import paper_dataset
from tasks.datasets.registry import find
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import GroundTruth
from tests.oracles.reward_truths import CASES

# The settings, and whose scores: ours or the paper's.
RULES = [
    (rule, of)
    for of in (find, lambda name: paper_dataset(find(name)))
    for rule in SETTINGS.values()
]
# Without expressions that keep math-verify busy for long: they are tested by themselves.
WORDS = """</think> <think> Answer: [ ] [1] > ( ) 7 42 - . , aB3dE6gH9k label: A B. the or é Paris
ID38 Street Mill Elm Road 1234567 \\boxed{ } $"""
JOINED = (" ", "\n", ", ", " > ", "[2, 3]", "label: 7", "Elm Street", "Mill Road", "\0", "\ud800")
PIECES = st.sampled_from([*WORDS.split(), *JOINED])
TEXTS = st.lists(PIECES, max_size=14).map("".join)
SOME = st.one_of(TEXTS, st.text(max_size=20))
ANSWERS = SOME.filter(str.strip)


@st.composite
def truths(draw) -> dict:
    dataset = draw(st.sampled_from([case.truth.dataset for case in CASES]))
    documents = draw(st.lists(SOME, max_size=4))
    labels = draw(st.lists(SOME, min_size=len(documents), max_size=len(documents)))
    several = st.lists(st.lists(SOME, min_size=1, max_size=3).map(tuple), max_size=4)
    # Fields, not the truth itself: its type checks draw random numbers, which strategies may not.
    return {
        "dataset": dataset,
        "answers": tuple(draw(st.lists(ANSWERS, min_size=1, max_size=3))),
        "gold_documents": tuple(documents),
        "gold_labels": tuple(labels) if draw(st.booleans()) else (),
        "math_answer": draw(SOME),
        "parts": tuple(draw(several)),
        "wrong": tuple(draw(st.lists(SOME, max_size=4))),
        "grades": draw(st.dictionaries(SOME, st.integers(-1, 3), max_size=5)),
        "choices": draw(st.dictionaries(st.sampled_from(["A", "B", "C", "D", ""]), SOME)),
    }


@settings(deadline=None, max_examples=500)
@given(
    truth=st.one_of(truths(), st.sampled_from(CASES)),
    text=st.one_of(SOME, SOME.map("</think>Answer: ".__add__)),
    spans=st.lists(SOME, max_size=5),
    num_tokens=st.integers(0, 40),
    tags=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    rule=st.sampled_from(RULES),
)
@example(CASES[3], "</think>Answer: \ud800", [], 1, (0, 0), RULES[0])
def test_every_component_of_any_response_is_finite_and_in_the_unit_interval(
    truth, text, spans, num_tokens, tags, rule
):
    response = Completion(text, num_tokens, tuple(spans), *tags, finished=True)
    truth = GroundTruth(**truth) if isinstance(truth, dict) else truth.truth
    settings, scorer_of = rule
    reward = score(response, truth, settings, scorer_of(truth.dataset))
    parts = dataclasses.asdict(reward)
    assert parts.pop("extra") == {}
    for name, value in parts.items():
        assert math.isfinite(value), name
        assert 0.0 <= value <= 1.0, name
    assert reward.exact_match in (0.0, 1.0)


LENGTH = 100_000
UNITS = ["1", "1,", "1.1", "a", "A ", "A or ", "a1", "é", " ", "\n", "-", "$", "{", "[", "[1", "["]
UNITS += ["[1,", "[9] ", "> ", "1 > ", "\\boxed{", "\\boxed{}", "\\text{", "\\text{a", "is ", "="]
UNITS += ["the ", "Paris ", "Elm Street ", "1234567 ", "</think>", "Answer:", "ID"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.truth.dataset)
def test_long_adversarial_responses_are_scored_in_time_and_score_nothing(case):
    for unit in UNITS:
        text = (unit * LENGTH)[:LENGTH]
        for answer in (text, text + "!b"):
            response = Completion(
                "</think>Answer: " + answer, LENGTH, (answer, answer[1:]), 2, 2, finished=True
            )
            start = time.process_time()
            reward = score(response, case.truth, SETTINGS["train"], find(case.truth.dataset))
            assert time.process_time() - start < 0.8, unit
            assert reward.answer == 0.0, unit
