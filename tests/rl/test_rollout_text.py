"""Rollouts of a policy whose every choice, probability and reward one computes by hand."""

import contextlib
import dataclasses
import itertools
import math
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from decoding.spans import CopiedSpan
from rl.batch import PromptText
from rl.rewards import guarded, rule
from rl.rewards.composite import Completion
from rl.rewards.rule import RewardRule
from rl.rollout_text import RolloutText, read_rollout, reward_groups
from tasks.scoring.truth import GroundTruth
from tests.oracles.reward_rules import TRAIN
from tests.oracles.toy_policy import ToyPolicy

KEY, VALUE, OTHER_KEY, OTHER_VALUE, ANSWER, START, END, STOP = range(8)
PIECES = (
    *("Key 7:\n", "aB3dE6gH9k", "Key 8:\n", "xY5zW2"),
    *("</think>\nAnswer: ", "<|start_recall|>", "<|end_recall|>", "<|stop|>"),
)
LINE = "Key 7:\naB3dE6gH9k"
RULES = SpanRules(
    start_token=START, end_token=END, vocab_size=8, barriers=(START, END, STOP), max_length=4
)
NEW = 10
# The first token of a response decides how it goes on: see `policy`.
PREFIX = np.array([[START], [ANSWER], [OTHER_KEY]], np.int32)


def policy() -> ToyPolicy:
    """After each token one other has the logit 5; after the value, END has 10 if allowed."""
    table = np.zeros((10, 8), np.float32)
    table[START, KEY] = table[KEY, VALUE] = table[END, ANSWER] = table[ANSWER, VALUE] = 5
    table[OTHER_KEY, OTHER_KEY] = 5
    table[VALUE, END], table[VALUE, STOP] = 10, 5
    return ToyPolicy(table=jnp.asarray(table))


@pytest.fixture(scope="module")
def sampled() -> RolloutText:
    tokens = np.array(
        [[OTHER_KEY, OTHER_VALUE, KEY, VALUE, 0], [KEY, VALUE, OTHER_KEY, KEY, VALUE]], np.int32
    )
    lengths = np.array([4, 5], np.int32)
    real = np.arange(5) < lengths[:, None]
    limits = Limits(RULES, NEW, stop_tokens=(STOP,))
    decoded = decode(
        policy(),
        jax.tree.map(jnp.asarray, Prompts(tokens, lengths, real, real, real)),
        row_keys(0, 0, np.arange(2, dtype=np.uint32), 3),
        sampling=Sampling(temperature=0.0),
        limits=limits,
        prefix=np.stack([PREFIX, PREFIX]),
    )
    return read_rollout(decoded, limits, lambda ids: "".join(PIECES[token] for token in ids))


def test_responses_end_with_their_stop_token_or_at_the_limit(sampled):
    recalled = [START, KEY, VALUE, END, ANSWER, VALUE, STOP]
    expected = [recalled, [ANSWER, VALUE, STOP], [OTHER_KEY] * NEW]
    lengths = np.asarray(sampled.rollout.lengths)
    assert lengths.tolist() == [[7, 3, 10]] * 2
    for b in range(2):
        for g in range(3):
            tokens = np.asarray(sampled.rollout.tokens[b, g, : lengths[b, g]])
            assert tokens.tolist() == expected[g]


def test_log_probabilities_are_those_under_the_span_mask(sampled):
    def likely(others, logit=5):
        return logit - math.log(math.exp(logit) + others)

    # In free text END is forbidden: 7 tokens are left. As the prompts end in the value, STOP is
    # the likely one of them at first. A span opens on any token of the prompt, which has
    # 4 or 3; after the key come the value and END. The first prompt has nothing after the value,
    # so END is certain.
    begin, free = -math.log(math.exp(5) + 6), likely(6)
    opening, last = [likely(3), likely(2)], [0.0, likely(1, logit=10)]
    for b in range(2):
        expected = [begin, opening[b], likely(1), last[b], free, free, free]
        np.testing.assert_allclose(sampled.rollout.log_probs[b, 0, :7], expected, atol=1e-5)


def test_spans_are_read_back_with_all_their_places(sampled):
    assert sampled.spans[0] == [[CopiedSpan(1, 3, True, 1, ((2, 4),))], [], []]
    assert sampled.spans[1] == [[CopiedSpan(1, 3, True, 2, ((0, 2), (3, 5)))], [], []]


def test_completions_are_texts_without_their_stop_token(sampled):
    recalled = f"<|start_recall|>{LINE}<|end_recall|></think>\nAnswer: aB3dE6gH9k"
    assert sampled.completions[0] == [
        Completion(recalled, 7, (LINE,), num_starts=1, num_ends=1, finished=True),
        Completion("</think>\nAnswer: aB3dE6gH9k", 3, (), 0, 0, finished=True),
        Completion("Key 8:\n" * NEW, NEW, (), 0, 0, finished=False),
    ]


def text(number, answer) -> PromptText:
    return PromptText(
        example_id=f"example/{number}",
        number=number,
        prompt="",
        copyable=(),
        offsets=np.zeros((0, 2), np.int32),
        ground_truth=GroundTruth("retrieval", (answer,), (LINE,)),
    )


TEXTS = [text(0, "aB3dE6gH9k"), text(1, "xY5zW2")]
OPTIONS = {"rule": TRAIN, "max_new_tokens": NEW}


def test_rewards_of_groups_by_hand(sampled):
    found = reward_groups(sampled, TEXTS, **OPTIONS, overlong_buffer=0)
    totals, rewards = found.totals, found.rewards
    assert found.problems == [] and found.known.all()
    # Well formed gives 0.2. Answer or recall alone gives 0.4 / 2 and 0.4 (sqrt(1.01 * 0.01)
    # - 0.01) more. The right answer to the second prompt differs from the one that was given.
    one = 0.2 + 0.2 + 0.4 * (math.sqrt(1.01 * 0.01) - 0.01)
    np.testing.assert_allclose(totals, [[1.0, one, 0.0], [one, 0.2, 0.0]], atol=1e-6)
    assert totals.dtype == np.float32
    assert [[reward.answer for reward in row] for row in rewards] == [[1, 1, 0], [0, 0, 0]]
    assert [[reward.retrieval for reward in row] for row in rewards] == [[1, 0, 0]] * 2


def test_long_responses_lose_reward_but_keep_their_components(sampled):
    plain = reward_groups(sampled, TEXTS, **OPTIONS, overlong_buffer=0)
    shaped = reward_groups(sampled, TEXTS, **OPTIONS, overlong_buffer=4)
    # 7 tokens of 10 leave 3 of the buffer's 4; 3 tokens leave all of it.
    expected = plain.totals * np.array([[0.75, 1.0, 0.0]])
    np.testing.assert_allclose(shaped.totals, expected, atol=1e-6)
    assert shaped.rewards == plain.rewards


def spoil(monkeypatch, spoilt, *, only):
    """Let `spoilt` make the reward of response `only` to the second prompt."""
    score = rule.score
    calls = itertools.count()

    def changed(*arguments):
        reward = score(*arguments)
        return spoilt(reward) if next(calls) == 3 + only else reward

    monkeypatch.setattr(rule, "score", changed)


def never_returns(reward):
    while True:
        time.sleep(0.01)


def swallows_what_is_raised(reward):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.01)


def catches_the_alarm(reward):
    with contextlib.suppress(BaseException):
        never_returns(reward)
    return reward


def raises(reward):
    raise RuntimeError("no such table\nsecond line")


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda reward: dataclasses.replace(reward, total=math.nan), "a reward of nan is not in"),
        (
            lambda reward: dataclasses.replace(reward, total=-0.1),
            "a reward of -0.1 is not in [0, 1]",
        ),
        (lambda reward: dataclasses.replace(reward, total=1.1), "a reward of 1.1 is not in [0, 1]"),
        (raises, "RuntimeError: no such table"),
        (never_returns, "no reward within 0.2 seconds"),
        (swallows_what_is_raised, "no reward within 0.2 seconds"),
        (catches_the_alarm, "no reward within 0.2 seconds"),
    ],
)
def test_a_reward_that_fails_is_named_and_teaches_nothing(sampled, monkeypatch, spoilt, reason):
    monkeypatch.setattr(guarded, "SECONDS", 0.2)
    plain = reward_groups(sampled, TEXTS, **OPTIONS, overlong_buffer=0)
    spoil(monkeypatch, spoilt, only=1)
    found = reward_groups(sampled, TEXTS, **OPTIONS, overlong_buffer=0)
    (problem,) = found.problems
    assert problem.startswith("example/1, response 1: ") and reason in problem
    np.testing.assert_array_equal(found.totals[0], plain.totals[0])
    assert found.known.tolist() == [[True, True, True], [True, False, True]]
    np.testing.assert_array_equal(found.totals[1], plain.totals[1] * [1, 0, 1])
    assert found.rewards[1][1].answer == 0 and found.rewards[1][0] == plain.rewards[1][0]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "TypeError: float() argument must be"),
        ("high", "ValueError: could not convert string to float"),
        ({"brevity": 1.0}, "KeyError: 'total'"),
        (2.0, "a reward of 2.0 is not in [0, 1]"),
    ],
)
def test_a_function_of_the_users_that_fails_costs_its_own_responses(sampled, given, reason):
    calls = itertools.count()

    def function(response, spans, asked):
        return given if next(calls) == 4 else 0.5

    own = {**OPTIONS, "rule": RewardRule(TRAIN.settings, TRAIN.scorer_of, function)}
    texts = [
        dataclasses.replace(text, offsets=np.stack([np.arange(99), np.arange(99) + 1], axis=1))
        for text in TEXTS
    ]
    found = reward_groups(sampled, texts, **own, overlong_buffer=0)
    assert found.known.tolist() == [[True, True, True], [True, False, True]]
    assert found.problems[0].startswith(f"example/1, response 1: {reason}")
    np.testing.assert_array_equal(found.totals, found.known * 0.5)
    # The components stay those of the data set.
    assert [reward.answer for reward in found.rewards[0]] == [1, 1, 0]


def test_every_prompt_needs_its_text(sampled):
    with pytest.raises(ValueError, match="is longer than"):
        reward_groups(sampled, TEXTS[:1], **OPTIONS, overlong_buffer=0)
