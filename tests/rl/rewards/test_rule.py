"""The rule of a run's rewards: weights, switches, and a function of the user's."""

import dataclasses
import math

import numpy as np
import pytest

from decoding.spans import CopiedSpan
from rl.batch import PromptText
from rl.rewards.composite import Completion, compose
from rl.rewards.rule import Asked, RecalledSpan, RewardRule, recalled_spans
from tasks.datasets.registry import find
from tasks.scoring.reward import SETTINGS, RewardWeights
from tasks.scoring.truth import GroundTruth

GOLD = "Key 7:\naB3dE6gH9k"
TRUTH = GroundTruth("retrieval", ("aB3dE6gH9k",), (GOLD,))
ASKED = Asked("example/1", f"<user>{GOLD}</user>", TRUTH)
TRAIN = SETTINGS["train"]


def completion(text, *spans, num_tokens=1024):
    return Completion(text, num_tokens, spans, len(spans), len(spans), finished=True)


def rewarded(response, function=None, **settings):
    rule = RewardRule(dataclasses.replace(TRAIN, **settings), find, function)
    return rule.reward(response, ASKED, (RecalledSpan(GOLD, True, ((6, 23),)),))


RIGHT = completion("I guess.</think>\nAnswer: aB3dE6gH9k")


@pytest.mark.parametrize(
    ("weights", "total"),
    [
        # Format and answer alone, without recall: 0.2 + 0.4 / 2 + 0.4 (sqrt(1.01 * 0.01) - 0.01).
        (RewardWeights(), 0.2 + 0.2 + 0.4 * 0.0904988),
        (RewardWeights(0.2, 0.8, 0.0, 0.0), 1.0),
        (RewardWeights(0.2, 0.8, 0.0, 1.0), 0.2),
        (RewardWeights(1.0, 0.0, 0.0), 1.0),
        (RewardWeights(0.0, 0.0, 1.0), 0.0904988),
        (RewardWeights(0.0, 1.0, 0.0, 0.25), 0.75),
    ],
)
def test_weights_by_hand(weights, total):
    assert rewarded(RIGHT, weights=weights).total == pytest.approx(total, abs=1e-6)
    assert compose(1.0, 1.0, 0.0, weights) == pytest.approx(total, abs=1e-6)


def test_gold_documents_need_not_be_recalled_if_they_do_not_count():
    assert rewarded(RIGHT).overlap == 0.0
    free = rewarded(RIGHT, gold_documents=False)
    assert (free.overlap, free.retrieval, free.total) == (1.0, 1.0, pytest.approx(1.0))


def test_density_off_lets_any_number_of_spans_pass():
    many = completion("x</think>\nAnswer: aB3dE6gH9k", *[GOLD] * 12, num_tokens=300)
    # Ten spans beyond the two free ones in 300 tokens.
    expected = 2.0 ** -((10 * 1024 / 300 - 4) / 4)
    assert rewarded(many).density == pytest.approx(expected)
    assert rewarded(many, density_limit=math.inf).density == 1.0


def test_a_function_of_the_users_replaces_the_total_and_sees_all():
    seen = []

    def function(response, spans, asked):
        seen.append((response, spans, asked))
        return 0.25

    reward = rewarded(RIGHT, function)
    assert reward == dataclasses.replace(rewarded(RIGHT), total=0.25)
    ((response, (span,), asked),) = seen
    assert (response, asked) == (RIGHT.text, ASKED)
    (first, last) = span.places[0]
    assert asked.prompt[first:last] == span.text == GOLD
    assert asked.truth.dataset == "retrieval"


def test_a_function_may_name_components():
    reward = rewarded(RIGHT, lambda response, spans, asked: {"total": 0.5, "brevity": 1})
    assert (reward.total, reward.answer, dict(reward.extra)) == (0.5, 1.0, {"brevity": 1.0})
    with pytest.raises(KeyError, match="total"):
        rewarded(RIGHT, lambda response, spans, asked: {"brevity": 1.0})


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ({"format": 9.0}, "its component 'format' is one of the usual ones; rename it"),
        ({"answer": 0.5}, "its component 'answer' is one of the usual ones"),
        ({"exact_match": 1.0}, "its component 'exact_match' is one of the usual ones"),
        ({"brevity": math.nan}, "its component 'brevity' is nan; give a finite number"),
        ({"brevity": math.inf}, "its component 'brevity' is inf"),
    ],
)
def test_a_component_that_hides_a_usual_one_or_is_no_number_is_refused(components, message):
    with pytest.raises(ValueError, match=message):
        rewarded(RIGHT, lambda response, spans, asked: {"total": 0.5, **components})


def test_spans_are_given_their_characters_in_the_prompt():
    offsets = np.array([[0, 4], [4, 6], [6, 11], [11, 20]])
    prompt = PromptText("example/1", 0, "x" * 20, (), offsets, TRUTH)
    spans = [CopiedSpan(3, 5, True, 2, ((1, 3), (2, 4))), CopiedSpan(9, 9, False, 0, ())]
    assert recalled_spans(spans, ["ab", ""], prompt) == (
        RecalledSpan("ab", True, ((4, 11), (6, 20))),
        RecalledSpan("", False, ()),
    )
