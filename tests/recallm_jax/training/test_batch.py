"""The inputs of an update beside its rollout: advantages, penalties and returns by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.suffix_index import build_index
from recallm_jax.config.load import load_config
from recallm_jax.training.batch import OldScores, group_batch, ppo_batch
from rl.batch import ScoredRollout


def by_hand(tokens_of):
    """Return a group of responses with these lengths; other fields are not read."""
    size = len(tokens_of)
    tokens = jnp.zeros((1, size, 3), jnp.int32)
    prompt = Prompts(
        tokens=jnp.zeros((1, 1), jnp.int32),
        lengths=jnp.ones(1, jnp.int32),
        copyable=jnp.ones((1, 1), bool),
        span_start=jnp.ones((1, 1), bool),
        span_end=jnp.ones((1, 1), bool),
    )
    index = build_index(prompt, num_rows=4, max_length=1, barriers=())
    lengths = jnp.array([tokens_of], jnp.int32)
    sampler = jnp.log(jnp.array([[[0.5, 0.5, 0.9], [0.25, 0.9, 0.9], [0.9, 0.9, 0.9]][:size]]))
    return Rollout(prompt, index, tokens, lengths, sampler)


def test_a_penalty_in_the_reward_lowers_what_the_reference_finds_unlikely():
    options = load_config(["--config=configs/quickstart.py:algorithm=rloo"]).grpo
    rollout = by_hand([2, 1])
    reference = jnp.log(jnp.array([[[0.25, 0.25, 0.1], [0.25, 0.1, 0.1]]]))
    scored = ScoredRollout(rollout, jnp.array([[0.6, 0.6]]), jnp.array([[True, True]]))
    batch, metrics = group_batch(options, scored, None, reference)
    # Two tokens half as likely: k1 is 2 log 2, and 0 for the other response, whose second position
    # is not one of its tokens. Each against the other, times the coefficient.
    penalty = 0.001 * 2 * math.log(2)
    np.testing.assert_allclose(batch.advantages[..., 0], [[-penalty, penalty]], rtol=1e-3)
    assert metrics["kl_penalty"] == pytest.approx(math.log(2))
    assert batch.reference_log_probs is None
    # A third response, without a reward or tokens, changes nothing else.
    three = by_hand([2, 1, 0])
    reference = jnp.concatenate([reference, reference[:, :1]], axis=1)
    known = jnp.array([[True, True, False]])
    scored = ScoredRollout(three, jnp.array([[0.6, 0.6, 0.0]]), known)
    batch, _ = group_batch(options, scored, None, reference)
    np.testing.assert_allclose(batch.advantages[..., 0], [[-penalty, penalty, 0]], rtol=1e-3)


def test_the_targets_of_ppo_by_hand():
    options = load_config(["--config=configs/quickstart.py:algorithm=ppo"]).ppo
    options = options.copy_and_resolve_references().unlock()
    options.kl_coefficient, options.discount, options.trace_decay = 0.5, 1.0, 0.5
    rollout = by_hand([2, 1])
    values = jnp.array([[[0.2, 0.4, 7.0], [0.1, 7.0, 7.0]]])
    reference = jnp.log(jnp.array([[[0.25, 0.5, 0.1], [0.5, 0.1, 0.1]]]))
    scored = ScoredRollout(rollout, jnp.array([[1.0, 0.3]]), jnp.ones((1, 2), bool))
    old = OldScores(rollout.log_probs, reference, values)
    batch, metrics = ppo_batch(options, scored, old)
    half = 0.5 * math.log(2)
    # Rewards -half, 1 and 0.3 + half; deltas r + v' - v; A_0 = delta_0 + A_1 / 2.
    second = 1.0 - 0.4
    first = -half + 0.4 - 0.2 + second / 2
    other = 0.3 + half - 0.1
    expected = np.array([first, second, other])
    returns = np.asarray(batch.returns)[[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    np.testing.assert_allclose(returns, expected + np.array([0.2, 0.4, 0.1]), rtol=1e-5)
    whitened = (expected - expected.mean()) / expected.std()
    found = np.asarray(batch.advantages)[[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    np.testing.assert_allclose(found, whitened, rtol=1e-4)
    assert metrics["kl_penalty"] == pytest.approx(0.0, abs=1e-6)
