import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.rewards import composite
from rl.rewards.composite import Completion, Reward, compose, overlong_factor
from rl.rewards.format import format_score
from tasks.datasets.registry import find
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import GroundTruth
from tests.oracles.reward_truths import CASES

TRAIN = SETTINGS["train"]
GOLD = "Key 7:\naB3dE6gH9k"
TRUTH = GroundTruth("retrieval", ("aB3dE6gH9k",), (GOLD,))


def completion(text, spans=(), *, num_tokens=1024, starts=None, ends=None):
    return Completion(
        text=text,
        num_tokens=num_tokens,
        spans=tuple(spans),
        num_starts=len(spans) if starts is None else starts,
        num_ends=len(spans) if ends is None else ends,
        finished=True,
    )


def score(response, truth, settings) -> Reward:
    return composite.score(response, truth, settings, find(truth.dataset))


RIGHT = completion(
    f"I recall <|start_recall|>{GOLD}<|end_recall|>.</think>\nAnswer: aB3dE6gH9k", [GOLD]
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("thought</think>\nAnswer: x", 1.0),
        # `Answer:` in the thought is not a final one.
        ("Answer: draft</think>Answer: x", 1.0),
        ("Answer: x", 0.0),
        ("a</think>b</think>Answer: x", 0.0),
        ("<think>a</think>Answer: x", 0.0),
        ("a</think>Answer: x<think>", 0.0),
        ("a</think>Answer: x\nAnswer: y", 0.0),
        ("a</think>Answer: \n ", 0.0),
        ("Answer: x</think>", 0.0),
        ("", 0.0),
    ],
)
def test_format_by_hand(text, value):
    assert format_score(text) == value


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((1.0, 0.0, 0.0), 0.2),
        ((1.0, 1.0, 1.0), 1.0),
        # Additive 0.5, product sqrt(1.01 * 0.01) - 0.01 = 0.0904988: without the smoothing
        # the total would be 0.4, without the last "- 0.01" 0.4402.
        ((1.0, 1.0, 0.0), 0.2 + 0.2 + 0.4 * 0.0904988),
        ((1.0, 0.0, 1.0), 0.2 + 0.2 + 0.4 * 0.0904988),
        # Additive 0.375, product sqrt(0.26 * 0.51) - 0.01 = 0.3541428.
        ((0.0, 0.25, 0.5), 0.15 + 0.4 * 0.3541428),
    ],
)
def test_composition_by_hand(parts, total):
    assert compose(*parts) == pytest.approx(total, abs=1e-7)


unit = st.floats(0.0, 1.0)


@settings(deadline=None)
@given(unit, unit, unit, unit)
def test_the_total_stays_in_the_unit_interval_and_rises_with_every_part(fmt, answer, ret, more):
    total = compose(fmt, answer, ret)
    assert 0.0 <= total <= 1.0
    assert compose(fmt, max(answer, more), ret) >= total - 1e-12
    assert compose(fmt, answer, max(ret, more)) >= total - 1e-12
    assert compose(max(fmt, more), answer, ret) >= total - 1e-12


def test_a_faithful_right_answer_earns_everything():
    reward = score(RIGHT, TRUTH, TRAIN)
    parts = dataclasses.asdict(reward)
    assert parts.pop("extra") == {}
    assert all(value == pytest.approx(1.0) for value in parts.values())


def test_a_right_answer_without_recall():
    reward = score(completion("I guess.</think>Answer: aB3dE6gH9k"), TRUTH, TRAIN)
    assert (reward.answer, reward.overlap, reward.usage, reward.density) == (1.0, 0.0, 1.0, 1.0)
    assert reward.retrieval == 0.0
    assert reward.total == pytest.approx(0.4361995, abs=1e-7)


def test_recalling_right_and_answering_wrong():
    reward = score(dataclasses.replace(RIGHT, text="x</think>Answer: zZ1zZ1zZ1z"), TRUTH, TRAIN)
    assert (reward.answer, reward.retrieval, reward.exact_match) == (0.0, 1.0, 0.0)
    assert reward.total == pytest.approx(0.4361995, abs=1e-7)


def test_retrieval_is_the_product_of_its_three_factors():
    # The value alone, 10 of 17 characters: F1 = 20 / 27, over 0.9. Four spans, one too short:
    # usage 1/2. Two counted in 256 tokens, 8 per 1,024: density 1/2.
    spans = ["aB3dE6gH9k", "zzzzz", "zzzzz", "zz"]
    reward = score(completion("</think>Answer: no", spans, num_tokens=256), TRUTH, TRAIN)
    assert reward.overlap == pytest.approx(20 / 27 / 0.9)
    assert (reward.usage, reward.density) == (0.5, 0.5)
    assert reward.retrieval == pytest.approx(20 / 27 / 0.9 / 4)


def test_an_answer_without_end_of_thought_loses_the_format_only():
    reward = score(dataclasses.replace(RIGHT, text="Answer: aB3dE6gH9k"), TRUTH, TRAIN)
    assert (reward.format, reward.answer, reward.retrieval) == (0.0, 1.0, 1.0)
    assert reward.total == pytest.approx(0.8)


def test_training_and_evaluation_differ_in_density_and_in_the_number_found():
    truth = dataclasses.replace(TRUTH, dataset="math_retrieval", math_answer="7")
    dense = completion("</think>Answer: 7", [GOLD] * 8)
    train, evaluation = (score(dense, truth, SETTINGS[name]) for name in ("train", "eval"))
    assert (train.answer, evaluation.answer) == (0.25, 0.0)
    assert train.density == pytest.approx(2**-0.5)
    assert evaluation.density == 1.0


@pytest.mark.parametrize(
    ("dataset", "text", "value"),
    [
        ("qampari", "</think>Answer: Paris [1]", 1.0),
        ("qampari", "</think>Answer: Paris", 0.5),
        ("qampari", "</think>Answer: [1], [2].", 0.5),
        ("qampari", "</think>Answer: Paris [99]", 0.5),
        ("qampari", "Answer: Paris [1]", 0.5),
        ("qampari", "Paris [1]", 0.0),
        # 10 of 40 ids, and 99 is not one of them: half of the root of a quarter.
        ("msmarco_v2", "</think>Answer: " + " > ".join(map(str, [99, *range(1, 11)])), 0.75),
        ("msmarco_v2", "</think>Answer: " + " > ".join(map(str, range(1, 41))), 1.0),
        ("msmarco_v2", "Answer: " + " > ".join(["7"] * 40), math.sqrt(1 / 40) / 2),
        ("msmarco_v2", "</think>Answer: none", 0.5),
        ("retrieval", "</think>Answer: none", 1.0),
    ],
)
def test_half_of_the_format_is_the_tasks_own_in_two_categories(dataset, text, value):
    truth = next(case.truth for case in CASES if case.truth.dataset == dataset)
    reward = score(completion(text), truth, TRAIN)
    assert reward.format == pytest.approx(value)


def test_recalling_the_documents_raises_the_score_of_their_citations():
    case = next(case for case in CASES if case.truth.dataset == "qampari")
    text = f"</think>Answer: {case.right}"
    without, with_spans = (
        score(completion(text, spans), case.truth, TRAIN)
        for spans in ((), case.truth.gold_documents)
    )
    assert without.answer == pytest.approx(0.8 * 2 / 3 + 0.2)
    assert (with_spans.answer, with_spans.total) == (1.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("num_tokens", "factor"),
    [(0, 1.0), (4096, 1.0), (4097, 1023 / 1024), (4608, 0.5), (5120, 0.0), (6000, 0.0)],
)
def test_the_factor_falls_over_the_last_1024_tokens(num_tokens, factor):
    assert overlong_factor(num_tokens, 5120, 1024) == pytest.approx(factor)


def test_without_a_buffer_length_costs_nothing():
    assert overlong_factor(5120, 5120, 0) == 1.0
