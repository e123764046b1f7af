"""The trainer scores responses like the sampler that drew them, and like a dense softmax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.packing import RowSize
from decoding.sampling import Sampling
from decoding.span_copy import mask_logits
from decoding.span_scores import FEW
from decoding.suffix_sort import BARRIER
from decoding.token_bits import unpack
from tests.oracles.toy_decoding import (
    BOTH,
    END,
    GROUP,
    NEW,
    NUM_PROMPTS,
    PAPER,
    PAPER_PROMPT,
    ROWS,
    RULES,
    START,
    assert_scored_as_sampled,
    make_prompts,
    real_tokens,
    sample_responses,
    score,
    span_loving_policy,
    traced,
)


@pytest.mark.parametrize(
    ("chunk", "rules"),
    [(1, RULES), (NEW, RULES), (7, BOTH), (NEW, PAPER), (7, PAPER_PROMPT)],
    ids=["1, prompt", "all, prompt", "7, prompt+response", "all, paper", "7, paper of the prompt"],
)
def test_trainer_log_probs_equal_the_samplers(chunk, rules):
    policy, prompts = span_loving_policy(1), make_prompts(1)
    rollout = sample_responses(policy, prompts, sampling=Sampling(temperature=0.7), rules=rules)
    scores = score(policy, rollout, temperature=0.7, chunk=chunk, rules=rules)
    assert_scored_as_sampled(rollout, scores)
    real = real_tokens(rollout)
    assert real.any(axis=-1).all() and not real.all()
    # The same responses end to end, some of them in each of two rows.
    packed = score(policy, rollout, 0.7, chunk, rules, size=RowSize(2, 110))
    assert_scored_as_sampled(rollout, packed)
    np.testing.assert_allclose(packed.entropy[real], scores.entropy[real], atol=1e-5)
    assert (np.asarray(packed.log_probs)[~real] == 0).all()
    # The responses hold forced tokens as well as free choices.
    assert (np.asarray(rollout.log_probs)[real] == 0).any() or rules.paper_compatible
    assert (np.asarray(rollout.log_probs)[real] < -1).any()


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_thousands_of_sampled_tokens_score_as_they_were_sampled(rules):
    checked = 0
    for seed in range(20, 26):
        policy, prompts = span_loving_policy(seed), make_prompts(seed)
        rollout = sample_responses(policy, prompts, seed, rules=rules)
        scores = score(policy, rollout, temperature=0.7, chunk=8, rules=rules)
        assert_scored_as_sampled(rollout, scores)
        checked += real_tokens(rollout).sum()
    assert checked > 2000


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_tokens_of_large_logits_score_as_they_were_sampled(rules):
    policy, prompts = span_loving_policy(3), make_prompts(3)
    # The logits are exact rows of the table, however they are computed: only the scores round.
    policy = type(policy)(table=policy.table.at[:ROWS].add(300.0).at[ROWS:].set(0.0))
    rollout = sample_responses(policy, prompts, rules=rules)
    scores = score(policy, rollout, temperature=0.7, chunk=7, rules=rules)
    assert_scored_as_sampled(rollout, scores)


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_log_prob_gradients_equal_those_of_a_dense_masked_softmax(rules):
    policy, prompts = span_loving_policy(2), make_prompts(2)
    rollout = sample_responses(policy, prompts, rules=rules)
    source, states = traced(rollout, rules)
    real = jnp.arange(NEW)[None, None] < rollout.lengths[..., None]

    def allowed_at(t):
        state = jax.tree.map(lambda field: field[:, :, t], states)
        flat = jnp.zeros((NUM_PROMPTS, GROUP, ROWS))
        return jnp.isfinite(mask_logits(flat, state, source, rules))

    allowed = jnp.stack([allowed_at(t) for t in range(NEW)], axis=2)
    allowed = allowed.reshape(NUM_PROMPTS, -1, ROWS)

    def chunked(policy):
        scores = score(policy, rollout, 0.7, 5, rules)
        return jnp.where(real, scores.log_probs, 0).sum(), scores

    def dense(policy):
        hidden = policy.score(prompts.tokens, prompts.lengths, rollout.tokens)
        logits = policy.unembed(hidden).reshape(NUM_PROMPTS, -1, ROWS)
        scores = jax.nn.log_softmax(logits / 0.7, axis=-1, where=allowed)
        tokens = rollout.tokens.reshape(NUM_PROMPTS, -1, 1)
        chosen = jnp.take_along_axis(scores, tokens, axis=-1)[..., 0]
        entropy = -jnp.where(allowed, jnp.exp(scores) * scores, 0).sum(-1)
        entropy = jnp.where(real.reshape(entropy.shape), entropy, 0)
        return jnp.where(real.reshape(chosen.shape), chosen, 0).sum(), entropy

    (value, scores), grad = jax.value_and_grad(chunked, has_aux=True)(policy)
    (expected, entropy), expected_grad = jax.value_and_grad(dense, has_aux=True)(policy)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad.table, expected_grad.table, atol=1e-4)
    np.testing.assert_allclose(scores.entropy.reshape(entropy.shape), entropy, atol=1e-4)


def test_a_forbidden_token_has_log_probability_minus_infinity_and_nothing_follows_the_end():
    policy, prompts = span_loving_policy(12), make_prompts(12)
    rollout = sample_responses(policy, prompts)
    # END outside a span, then a span of a token that the prompt does not have.
    wrong = rollout.tokens.at[:, :, 0].set(END).at[:, :, 1].set(START).at[:, :, 2].set(20)
    changed = dataclasses.replace(rollout, tokens=wrong, lengths=jnp.full((4, GROUP), 4))
    scores = np.asarray(score(policy, changed, 1.0, 5).log_probs)
    assert np.isneginf(scores[:, :, [0, 2]]).all()
    assert np.isfinite(scores[:, :, 1]).all()
    assert (scores[:, :, 4:] == 0).all()


def test_nan_is_not_hidden_from_training():
    policy, prompts = span_loving_policy(13), make_prompts(13)
    rollout = sample_responses(policy, prompts)
    broken = type(policy)(table=policy.table * jnp.nan)
    scores = score(broken, rollout, 1.0, 5)
    real = real_tokens(rollout)
    assert np.isnan(np.asarray(scores.log_probs)[real]).all()


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_positions_that_few_tokens_can_follow_are_spared_the_vocabulary(rules):
    policy, prompts = span_loving_policy(14), make_prompts(14)
    rollout = sample_responses(policy, prompts, rules=rules)
    seen = []

    class Counting(type(policy)):
        def unembed(self, hidden):
            jax.debug.callback(lambda: seen.append(hidden.shape[0] * hidden.shape[1]))
            return super().unembed(hidden)

    counting = jax.tree_util.register_dataclass(Counting, ["table"], [])(policy.table)
    score(counting, rollout, 1.0, 1, rules)
    jax.effects_barrier()
    source, states = traced(rollout, rules)
    real = real_tokens(rollout)
    locus = states.places.locus if rules is BOTH else states.places
    most = np.asarray(locus.last - locus.first + 2)
    if rules is BOTH:
        going = np.asarray(unpack(states.places.matches.places, source.text.tokens.shape[-1]))
        most = most + (going & (np.asarray(source.text.tokens) != BARRIER)[:, :, None]).sum(-1)
    few = np.asarray(states.inside) & (most <= FEW)
    needed = (real & ~few).sum(axis=(1, 2)).max()
    chunks = -(-needed // GROUP)
    assert sum(seen) == chunks * GROUP * NUM_PROMPTS < NEW * GROUP * NUM_PROMPTS
    assert (real & few).any()
