"""Update steps on a policy that one computes by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoding.packing import RowSize
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.span_copy import SpanRules
from decoding.span_scores import Scoring
from decoding.suffix_index import build_index
from rl.batch import Batch
from rl.critic import Critic, init_critic
from rl.learner import (
    PolicyLoss,
    init_state,
    policy_update,
    score_and_value_in_parts,
    score_in_parts,
    sft_update,
)
from rl.packing import one_a_row, pack
from tests.oracles.toy_policy import random_toy_policy

VOCAB, START, END = 12, 10, 11
RULES = SpanRules(start_token=START, end_token=END, vocab_size=VOCAB, barriers=(START, END))
BUDGET = 6
SCORING = Scoring(rules=RULES, budget=BUDGET, temperature=1.0, chunk=4)
LOSS = PolicyLoss(clip_low=0.2, clip_high=0.2, kl_coefficient=0.0, importance_cap=2.0)
OPTIMIZER = optax.sgd(0.5)
NUM_PROMPTS, GROUP = 4, 2
# Both responses of a group in one row.
ONE_ROW = RowSize(1, GROUP * BUDGET)


def packed(rollout, num_parts, sizes=(ONE_ROW,)):
    """Return micro-batches of packed rows; a whole batch has one response a row."""
    if num_parts == 1:
        return one_a_row(*rollout.tokens.shape)
    return pack(np.asarray(rollout.lengths), sizes, num_parts)


@pytest.fixture
def state():
    return init_state(random_toy_policy(0, VOCAB), OPTIMIZER)


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 10, (NUM_PROMPTS, 5)), jnp.int32)
    everywhere = jnp.ones(tokens.shape, bool)
    prompts = Prompts(
        tokens=tokens,
        lengths=jnp.full(NUM_PROMPTS, 5, jnp.int32),
        copyable=everywhere,
        span_start=everywhere,
        span_end=everywhere,
    )
    index = build_index(prompts, num_rows=VOCAB, max_length=4, barriers=RULES.barriers)
    # Free text only, of different lengths.
    written = jnp.asarray(rng.integers(0, 10, (NUM_PROMPTS, GROUP, BUDGET)), jnp.int32)
    lengths = jnp.asarray(rng.integers(1, BUDGET + 1, (NUM_PROMPTS, GROUP)), jnp.int32)
    return Rollout(prompts, index, written, lengths)


def batch_of(policy, rollout: Rollout, advantages) -> Batch:
    scores = score_in_parts(policy, rollout, scoring=SCORING, packing=packed(rollout, 1))
    return Batch(
        dataclasses.replace(rollout, log_probs=scores),
        advantages=jnp.asarray(advantages, jnp.float32)[..., None],
        reference_log_probs=scores,
    )


def updated(state, batch, *, loss=LOSS, num_parts=1, optimizer=OPTIMIZER, sizes=(ONE_ROW,)):
    """Return the state after an update, and its metrics."""
    return policy_update(
        state,
        batch,
        optimizer=optimizer,
        scoring=SCORING,
        loss=loss,
        packing=packed(batch.rollout, num_parts, sizes),
    )


def expected_log_probs(policy, rollout: Rollout):
    """Log-probabilities in NumPy: in free text all but the end token are allowed, and a span needs
    room for its two marks and a token."""
    prompts = rollout.prompts
    hidden = policy.score(prompts.tokens, prompts.lengths, rollout.tokens)
    logits = np.array(policy.unembed(hidden), np.float64)
    logits[..., END] = -np.inf
    logits[:, :, BUDGET - 2 :, START] = -np.inf
    normaliser = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.array(rollout.tokens)[..., None]
    return np.take_along_axis(logits - normaliser, chosen, axis=-1)[..., 0]


def real_tokens(rollout: Rollout):
    return np.arange(BUDGET)[None, None] < np.asarray(rollout.lengths)[..., None]


@pytest.mark.parametrize("parts", [1, 2])
def test_rows_split_over_devices_keep_their_scores(state, rollout, parts):
    scoring = dataclasses.replace(SCORING, parts=parts)
    scores = score_in_parts(state.policy, rollout, scoring=scoring, packing=packed(rollout, 1))
    real = real_tokens(rollout)
    expected = expected_log_probs(state.policy, rollout)
    np.testing.assert_allclose(scores[real], expected[real], rtol=1e-5, atol=1e-5)


def test_the_sft_loss_is_the_mean_over_all_real_tokens(state, rollout):
    expected = -expected_log_probs(state.policy, rollout)[real_tokens(rollout)].mean()
    _, metrics = sft_update(
        state, rollout, optimizer=OPTIMIZER, scoring=SCORING, packing=packed(rollout, 2)
    )
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_sft_makes_the_demonstrations_likelier(state, rollout):
    before = expected_log_probs(state.policy, rollout)
    new, _ = sft_update(
        state, rollout, optimizer=OPTIMIZER, scoring=SCORING, packing=packed(rollout, 1)
    )
    after = expected_log_probs(new.policy, rollout)
    real = real_tokens(rollout)
    assert after[real].mean() > before[real].mean() + 0.01


def test_prompts_without_a_demonstration_weigh_nothing(rollout):
    def trained(rollout):
        state = init_state(random_toy_policy(0, VOCAB), OPTIMIZER)
        state, metrics = sft_update(
            state, rollout, optimizer=OPTIMIZER, scoring=SCORING, packing=packed(rollout, 2)
        )
        return jax.tree.leaves(state.policy), metrics["loss"]

    shown = np.array([[3], [0], [5], [0]])
    some = dataclasses.replace(rollout, tokens=rollout.tokens[:, :1], lengths=shown)
    others = dataclasses.replace(some, tokens=np.where(shown[..., None] > 0, some.tokens, 3))
    for first, second in zip(*(trained(one) for one in (some, others)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, first, second)
    policy = random_toy_policy(0, VOCAB)
    real = np.arange(BUDGET)[None, None] < shown[..., None]
    expected = -expected_log_probs(policy, some)[real].mean()
    assert trained(some)[1] == pytest.approx(expected, rel=1e-5)
    empty = dataclasses.replace(some, lengths=np.zeros_like(shown))
    unchanged, loss = trained(empty)
    assert loss == 0
    jax.tree.map(np.testing.assert_array_equal, unchanged, jax.tree.leaves(policy))


def test_grpo_makes_the_better_response_likelier_and_the_worse_less(state, rollout):
    before = expected_log_probs(state.policy, rollout)
    batch = batch_of(state.policy, rollout, [[1.0, -1.0]] * NUM_PROMPTS)
    new, metrics = updated(state, batch)
    change = np.where(real_tokens(rollout), expected_log_probs(new.policy, rollout) - before, 0)
    better, worse = change.sum(axis=(0, 2))
    assert better > 0.01 and worse < -0.01
    # At the first update of a batch the ratio is 1: the loss is the mean advantage a token.
    tokens_of = np.asarray(rollout.lengths).sum(axis=0)
    expected = -(tokens_of[0] - tokens_of[1]) / tokens_of.sum()
    assert metrics["policy_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_the_decision_to_end_is_learnt_like_any_other(state, rollout, aggregation):
    stop, other = 0, 1
    tokens = rollout.tokens.at[:, :, 0].set(jnp.array([stop, other]))
    ended = dataclasses.replace(
        rollout, tokens=tokens, lengths=jnp.tile(jnp.array([1, BUDGET]), (NUM_PROMPTS, 1))
    )
    before = expected_log_probs(state.policy, ended)[:, 0, 0]
    batch = batch_of(state.policy, ended, [[1.0, 0.0]] * NUM_PROMPTS)
    loss = dataclasses.replace(LOSS, aggregation=aggregation)
    state, _ = updated(state, batch, loss=loss, num_parts=2)
    assert (expected_log_probs(state.policy, ended)[:, 0, 0] > before + 1e-3).all()


@pytest.mark.parametrize("num_parts", [2, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ratio": "sequence", "aggregation": "sequence"},
        {"aggregation": "constant", "kl_coefficient": 0.5, "kl_estimator": "k2"},
    ],
    ids=["token", "sequence", "constant"],
)
def test_micro_batches_sum_to_the_whole_batch(rollout, num_parts, changes):
    loss = dataclasses.replace(LOSS, **changes)

    def update(parts):
        state = init_state(random_toy_policy(0, VOCAB), OPTIMIZER)
        advantages = np.random.default_rng(1).normal(size=(NUM_PROMPTS, GROUP))
        batch = batch_of(state.policy, rollout, advantages)
        sizes = (RowSize(1, BUDGET), ONE_ROW)
        assert num_parts == 2 or len(packed(rollout, 4, sizes).runs) == 2
        return updated(state, batch, loss=loss, num_parts=parts, sizes=sizes)

    whole, parts = update(1), update(num_parts)
    for found, expected in zip(*map(jax.tree.leaves, (parts, whole)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_tokens_after_a_response_change_nothing(rollout):
    def update(tokens):
        state = init_state(random_toy_policy(0, VOCAB), OPTIMIZER)
        changed = dataclasses.replace(rollout, tokens=tokens)
        batch = batch_of(state.policy, changed, [[1.0, -1.0]] * NUM_PROMPTS)
        return updated(state, batch)[0].policy.table

    padding = ~real_tokens(rollout)
    # The end token is forbidden there, with a log-probability of -inf.
    spoilt = jnp.where(padding, END, rollout.tokens)
    np.testing.assert_array_equal(update(spoilt), update(jnp.where(padding, 0, rollout.tokens)))


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_the_first_update_of_a_batch_weighs_tokens_as_its_aggregation_says(rollout, aggregation):
    """At a ratio of 1 the surrogate of a token is minus its advantage."""
    state = init_state(random_toy_policy(0, VOCAB), OPTIMIZER)
    advantages = np.random.default_rng(1).normal(size=(NUM_PROMPTS, GROUP))
    lengths = np.asarray(rollout.lengths)
    weights = {
        "token": lengths / lengths.sum(),
        "sequence": np.full(lengths.shape, 1 / lengths.size),
        "constant": lengths / (lengths.size * BUDGET),
    }
    loss = dataclasses.replace(LOSS, aggregation=aggregation)
    batch = batch_of(state.policy, rollout, advantages)
    _, metrics = updated(state, batch, loss=loss, num_parts=2)
    expected = -(weights[aggregation] * advantages).sum()
    assert metrics["policy_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["clip_fraction"] == 0


@dataclasses.dataclass(frozen=True)
class LaterUpdate:
    """The inputs of an update after the first, as NumPy arrays of random numbers."""

    old: np.ndarray
    sampler: np.ndarray
    reference: np.ndarray
    advantages: np.ndarray
    old_values: np.ndarray
    returns: np.ndarray

    def batch(self, rollout: Rollout, *, with_values: bool) -> Batch:
        arrays = {name: jnp.asarray(x, jnp.float32) for name, x in vars(self).items()}
        values = {name: arrays[name] if with_values else None for name in ("old_values", "returns")}
        return Batch(
            dataclasses.replace(rollout, log_probs=arrays["sampler"]),
            arrays["advantages"],
            arrays["old"],
            arrays["reference"],
            **values,
        )


def later_update(new: np.ndarray) -> LaterUpdate:
    """Return arrays around the log-probabilities of a policy, so that all clips bite."""
    rng = np.random.default_rng(2)
    old, sampler, reference = (new + rng.normal(0, 0.5, new.shape) for _ in range(3))
    advantages = rng.normal(size=(NUM_PROMPTS, GROUP, 1))
    old_values, returns = rng.normal(size=(2, *new.shape))
    return LaterUpdate(old, sampler, reference, advantages, old_values, returns)


def log_softmax_of(table, hidden, rollout):
    """`expected_log_probs` of a table in float64."""
    logits = hidden @ table
    logits[..., END] = -np.inf
    logits[:, :, BUDGET - 2 :, START] = -np.inf
    chosen = np.array(rollout.tokens)[..., None]
    normaliser = np.log(np.exp(logits).sum(axis=-1))
    return np.take_along_axis(logits, chosen, axis=-1)[..., 0] - normaliser


def loss_in_numpy(new, values, update: LaterUpdate, loss: PolicyLoss, real) -> float:
    """The formulas of the papers, as `rl/losses.py` names them."""
    length = real.sum(axis=-1, keepdims=True)

    def per_response(x):
        return np.where(real, x, 0.0).sum(axis=-1, keepdims=True) / length

    log_ratio = new - update.old
    if loss.ratio == "sequence":
        log_ratio = np.broadcast_to(per_response(log_ratio), new.shape)
    ratio, advantages = np.exp(log_ratio), update.advantages
    clipped = np.clip(ratio, 1 - loss.clip_low, 1 + loss.clip_high)
    surrogate = -np.minimum(ratio * advantages, clipped * advantages)
    weights = np.minimum(np.exp(update.old - update.sampler), loss.importance_cap)
    apart = update.reference - new
    kl = {"k1": -apart, "k2": apart**2 / 2, "k3": np.exp(apart) - apart - 1}[loss.kl_estimator]
    mean = {
        "token": lambda x: x[real].mean(),
        "sequence": lambda x: per_response(x).mean(),
        "constant": lambda x: np.where(real, x, 0.0).sum() / (NUM_PROMPTS * GROUP * BUDGET),
    }[loss.aggregation]
    total = mean(weights * surrogate) + loss.kl_coefficient * mean(kl)
    if values is not None:
        near = np.clip(
            values, *(update.old_values + c for c in (-loss.value_clip, loss.value_clip))
        )
        errors = np.maximum((values - update.returns) ** 2, (near - update.returns) ** 2)
        total += loss.value_coefficient * errors[real].mean() / 2
    return total


RECORDING = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ratio": "sequence", "aggregation": "sequence", "clip_low": 0.05, "clip_high": 0.1},
        {"aggregation": "constant", "kl_estimator": "k1"},
        {"aggregation": "sequence", "kl_estimator": "k2"},
        {"kl_coefficient": 0.0, "value_coefficient": 0.7, "value_clip": 0.3},
    ],
    ids=["grpo", "gspo", "k1", "k2", "ppo"],
)
def test_losses_and_gradients_of_a_later_update_are_the_papers_formulas(rollout, changes):
    """The gradient by differences of the formula in float64, along random directions."""
    settings = {"clip_low": 0.1, "clip_high": 0.3, "kl_coefficient": 0.4} | changes
    loss = dataclasses.replace(LOSS, **settings)
    policy, rng = random_toy_policy(0, VOCAB), np.random.default_rng(1)
    prompts, real = rollout.prompts, real_tokens(rollout)
    hidden = np.array(policy.score(prompts.tokens, prompts.lengths, rollout.tokens), np.float64)
    table, kernel = np.array(policy.table, np.float64), rng.normal(size=VOCAB + 2)
    critic = "value_clip" in changes

    def formula(table, kernel):
        values = hidden @ kernel if critic else None
        return loss_in_numpy(log_softmax_of(table, hidden, rollout), values, update, loss, real)

    update = later_update(np.where(real, log_softmax_of(table, hidden, rollout), 0.0))
    of_critic = Critic(jnp.asarray(kernel, jnp.float32), jnp.zeros(())) if critic else None
    state = init_state(policy, RECORDING, of_critic)
    batch = update.batch(rollout, with_values=critic)
    state, metrics = updated(state, batch, loss=loss, num_parts=2, optimizer=RECORDING)
    assert metrics["loss"] == pytest.approx(formula(table, kernel), rel=1e-4)
    gradient, of_kernel = (
        (state.optimizer_state["policy"].table, state.optimizer_state["critic"].kernel)
        if critic
        else (state.optimizer_state.table, 0.0)
    )
    for _ in range(3):
        along, beside = rng.normal(size=table.shape), critic * rng.normal(size=kernel.shape)
        ahead, behind = (formula(table + h * along, kernel + h * beside) for h in (1e-6, -1e-6))
        slope = (np.array(gradient) * along).sum() + (np.array(of_kernel) * beside).sum()
        assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_penalty_in_the_loss_pulls_to_the_reference(rollout, estimator):
    state = init_state(random_toy_policy(0, VOCAB), OPTIMIZER)
    # A reference nearby: far away k3, an exponential, has no useful slope.
    other = jax.tree.map(lambda x, y: 0.9 * x + 0.1 * y, state.policy, random_toy_policy(1, VOCAB))
    reference = score_in_parts(other, rollout, scoring=SCORING, packing=packed(rollout, 1))
    batch = batch_of(state.policy, rollout, np.zeros((NUM_PROMPTS, GROUP)))
    batch = dataclasses.replace(batch, reference_log_probs=reference)
    loss = dataclasses.replace(LOSS, kl_coefficient=1.0, kl_estimator=estimator)
    distances = []
    for _ in range(3):
        state, metrics = updated(state, batch, loss=loss, num_parts=1)
        distances.append(float(metrics["kl"]))
    assert distances[0] > distances[1] > distances[2] > 0


def critic_state(trunk=None):
    policy = random_toy_policy(0, VOCAB)
    return init_state(policy, OPTIMIZER_OF_BOTH, init_critic(VOCAB + 2, trunk))


OPTIMIZER_OF_BOTH = optax.partition(
    {"policy": optax.sgd(0.5), "critic": optax.sgd(0.05)}, {"policy": "policy", "critic": "critic"}
)
PPO_LOSS = dataclasses.replace(LOSS, value_coefficient=1.0, value_clip=10.0)
PPO = {"loss": PPO_LOSS, "num_parts": 2, "optimizer": OPTIMIZER_OF_BOTH}


def ppo_batch(state, rollout, advantages, returns):
    log_probs, values = score_and_value_in_parts(
        state.policy, state.critic, rollout, scoring=SCORING, packing=packed(rollout, 2)
    )
    return Batch(
        dataclasses.replace(rollout, log_probs=log_probs),
        advantages=jnp.asarray(advantages, jnp.float32),
        old_log_probs=log_probs,
        old_values=values,
        returns=jnp.asarray(returns, jnp.float32),
    )


@pytest.mark.parametrize("own_trunk", [False, True])
def test_a_critic_learns_the_returns_and_leaves_the_policy(rollout, own_trunk):
    trunk = random_toy_policy(3, VOCAB) if own_trunk else None
    state = critic_state(trunk)
    before = np.asarray(state.policy.table)
    real = real_tokens(rollout)
    # Tokens after a response must not be learnt from.
    returns = np.where(real, 0.7, np.nan)
    zeros = np.zeros(real.shape)
    errors = []
    for _ in range(60):
        batch = ppo_batch(state, rollout, zeros, returns)
        errors.append(np.abs(np.asarray(batch.old_values)[real] - 0.7).mean())
        state, metrics = updated(state, batch, **PPO)
    assert errors[0] == pytest.approx(0.7)
    assert errors[-1] < 0.2 * errors[0]
    assert metrics["return"] == pytest.approx(0.7)
    np.testing.assert_array_equal(state.policy.table, before)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_the_value_loss_is_a_mean_over_tokens_whatever_the_aggregation(rollout, aggregation):
    state = critic_state()
    real, lengths = real_tokens(rollout), np.asarray(rollout.lengths)
    # The critic says 0, and the first response of each prompt returns 1: 1/2 for each of its
    # tokens, 0 for those of the second. Means over responses would be 1/4.
    returns = np.zeros(real.shape)
    returns[:, 0] = 1.0
    expected = lengths[:, 0].sum() / lengths.sum() / 2
    assert abs(expected - 0.25) > 0.01
    loss = dataclasses.replace(PPO_LOSS, aggregation=aggregation, value_coefficient=3.0)
    batch = ppo_batch(state, rollout, np.zeros(real.shape), returns)
    _, metrics = updated(state, batch, **PPO | {"loss": loss})
    assert metrics["value_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["loss"] == pytest.approx(3 * expected, rel=1e-5)


def test_ppo_raises_the_tokens_of_high_advantage(rollout):
    state = critic_state()
    before = expected_log_probs(state.policy, rollout)
    real = real_tokens(rollout)
    advantages = np.where(np.arange(BUDGET) % 2 == 0, 1.0, -1.0) * real
    batch = ppo_batch(state, rollout, advantages, np.zeros(real.shape))
    state, metrics = updated(state, batch, **PPO)
    change = expected_log_probs(state.policy, rollout) - before
    assert change[real & (advantages > 0)].mean() > 0.01
    assert change[real & (advantages < 0)].mean() < -0.01
    assert metrics["policy_loss"] == pytest.approx(-advantages.sum() / real.sum(), abs=1e-5)
