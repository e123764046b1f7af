import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.losses import (
    aggregate,
    clipped_surrogate,
    clipped_value_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    loss_denominator,
    masked_sum,
    sequence_log_ratio,
    token_log_ratio,
    truncated_importance,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.3}


def surrogate(ratio, advantage):
    """Return the loss of one token with this ratio, and its gradient by the log-probability."""

    def loss(log_prob):
        log_ratio = token_log_ratio(log_prob.reshape(1, 1, 1), jnp.zeros((1, 1, 1)))
        return clipped_surrogate(log_ratio, jnp.full((1, 1, 1), advantage), **CLIP)[0, 0, 0]

    return jax.value_and_grad(loss)(jnp.log(jnp.asarray(ratio, jnp.float32)))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # Minimising must raise the probability of a good token and lower that of a bad one.
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (1.1, 1.0, -1.1, -1.1),
        # Past the bound in the advantage's direction nothing is left to gain.
        (1.5, 1.0, -1.3, 0.0),
        (0.5, -1.0, 0.8, 0.0),
        # On the wrong side the loss is not clipped: `max` for `min` would give -0.8 and 1.3.
        (0.5, 1.0, -0.5, -0.5),
        (1.5, -1.0, 1.5, 1.5),
        # The upper bound is its own: the lower one's 0.2 would clip here.
        (1.25, 1.0, -1.25, -1.25),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
    value, slope = surrogate(ratio, advantage)
    assert value == pytest.approx(loss, rel=1e-5)
    assert slope == pytest.approx(gradient, rel=1e-5)


def test_a_gradient_step_raises_good_tokens_and_lowers_bad_ones():
    logits = jnp.zeros((1, 2, 1, 3))
    tokens = jnp.array([[[0], [2]]])
    old = jnp.full((1, 2, 1), -jnp.log(3.0))

    def loss(logits):
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        advantages = jnp.array([[[1.0], [-1.0]]])
        return clipped_surrogate(token_log_ratio(log_probs, old), advantages, **CLIP).sum()

    step = -jax.grad(loss)(logits)
    assert step[0, 0, 0, 0] > 0 > step[0, 0, 0, 1]
    assert step[0, 1, 0, 2] < 0 < step[0, 1, 0, 0]


def one(value):
    return jnp.full((1, 1, 1), value)


def test_kl_estimators_by_hand():
    # pi = 1/2, pi_ref = 1/4: log ratio d = log(1/2). k3 with the sign of d turned is 0.307.
    pi, reference = one(np.log(0.5)), one(np.log(0.25))
    assert kl_k1(pi, reference).item() == pytest.approx(np.log(2.0))
    assert kl_k2(pi, reference).item() == pytest.approx(np.log(2.0) ** 2 / 2)
    assert kl_k3(pi, reference).item() == pytest.approx(0.5 + np.log(2.0) - 1, rel=1e-5)


POLICY = jnp.array([0.5, 0.3, 0.2])
REFERENCE = jnp.array([0.2, 0.2, 0.6])


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_the_mean_of_the_unbiased_estimators_is_the_kl(estimator):
    # Under the policy, not the reference: KL(ref || pi) is 0.394.
    kl = float((POLICY * jnp.log(POLICY / REFERENCE)).sum())
    estimates = estimator(jnp.log(POLICY).reshape(1, 1, 3), jnp.log(REFERENCE).reshape(1, 1, 3))
    assert float((POLICY * estimates[0, 0]).sum()) == pytest.approx(kl, rel=1e-5)


def test_the_mean_gradient_of_k2_is_that_of_the_kl():
    def kl(logits):
        log_probs = jax.nn.log_softmax(logits)
        return (jnp.exp(log_probs) * (log_probs - jnp.log(REFERENCE))).sum()

    def sampled(logits):
        log_probs = jax.nn.log_softmax(logits)
        estimates = kl_k2(log_probs.reshape(1, 1, 3), jnp.log(REFERENCE).reshape(1, 1, 3))
        return (POLICY * estimates[0, 0]).sum()

    logits = jnp.log(POLICY)
    np.testing.assert_allclose(jax.grad(sampled)(logits), jax.grad(kl)(logits), atol=1e-6)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_kl_vanishes_where_the_policies_agree(estimator):
    log_probs = -jax.random.uniform(jax.random.key(0), (2, 3, 4)) * 20
    assert (np.asarray(estimator(log_probs, log_probs)) == 0.0).all()


@pytest.mark.parametrize("estimator", [kl_k2, kl_k3])
def test_minimising_the_kl_leads_to_the_reference(estimator):
    gradient = jax.grad(lambda x: estimator(x, one(-1.0)).sum())
    assert gradient(one(-0.5)).item() > 0
    assert gradient(one(-2.0)).item() < 0


def test_k3_of_a_small_difference_is_not_lost_in_rounding():
    # exp(d) - d - 1 in float32 would be 0 or 1.2e-7.
    assert kl_k3(one(0.0), one(1e-4)).item() == pytest.approx(5e-9, rel=1e-2)


@pytest.mark.parametrize("difference", [-60.0, 0.0, 60.0])
def test_k3_has_a_finite_gradient(difference):
    assert np.isfinite(jax.grad(lambda x: kl_k3(x, one(0.0)).sum())(one(difference))).all()


def test_importance_weights_are_trainer_over_sampler_up_to_the_cap():
    # The inverse ratio would give 2, 0.5 and 0.1.
    old = jnp.log(jnp.array([[[0.2, 0.8, 0.9]]]))
    sampler = jnp.log(jnp.array([[[0.4, 0.4, 0.09]]]))
    weights = truncated_importance(old, sampler, cap=2.0)
    np.testing.assert_allclose(weights, [[[0.5, 2.0, 2.0]]], rtol=1e-5)


def test_importance_weights_pass_no_gradient_and_survive_overflow():
    def weighted(old):
        return (truncated_importance(old, old - 200.0, cap=2.0) * old).sum()

    assert jax.grad(weighted)(one(-1.0)).item() == 2.0


VALUES = jnp.array([[[1.0, 2.0, 3.0, jnp.nan], [10.0, jnp.nan, jnp.inf, 0.0]]])
MASK = jnp.array([[[True, True, True, False], [True, False, False, False]]])


@pytest.mark.parametrize(
    ("aggregation", "loss"),
    [("token", 16 / 4), ("sequence", (2 + 10) / 2), ("constant", 16 / (2 * 8))],
)
def test_aggregation_by_hand(aggregation, loss):
    denominator = loss_denominator(MASK, aggregation, max_tokens=8)
    assert aggregate(VALUES, MASK, denominator, aggregation).item() == pytest.approx(loss)


@pytest.mark.parametrize(("aggregation", "loss"), [("token", 16 / 4), ("sequence", (2 + 10) / 2)])
def test_a_response_without_tokens_is_in_no_mean(aggregation, loss):
    """A response without a reward is emptied; counted, it would give (2 + 10 + 0) / 3."""
    values = jnp.concatenate([VALUES, VALUES[:, :1]], axis=1)
    mask = jnp.concatenate([MASK, jnp.zeros_like(MASK[:, :1])], axis=1)
    denominator = loss_denominator(mask, aggregation, max_tokens=8)
    assert aggregate(values, mask, denominator, aggregation).item() == pytest.approx(loss)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_micro_batches_add_up_to_the_batch(aggregation):
    values = jax.random.normal(jax.random.key(1), (4, 3, 5))
    lengths = jax.random.randint(jax.random.key(2), (4, 3, 1), 0, 6)
    mask = jnp.arange(5)[None, None] < lengths
    denominator = loss_denominator(mask, aggregation, max_tokens=5)
    parts = [
        aggregate(values[rows], mask[rows], denominator, aggregation)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    whole = aggregate(values, mask, denominator, aggregation)
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_masking_equals_dropping_the_tokens(aggregation):
    denominator = loss_denominator(MASK, aggregation, max_tokens=8)
    cut = loss_denominator(MASK[..., :3], aggregation, max_tokens=8)
    assert denominator == cut
    assert aggregate(VALUES, MASK, denominator, aggregation) == aggregate(
        VALUES[..., :3], MASK[..., :3], cut, aggregation
    )


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_aggregation_of_nothing_is_zero_with_a_finite_gradient(aggregation):
    mask = jnp.zeros((1, 2, 4), bool)
    denominator = loss_denominator(mask, aggregation, max_tokens=4)

    def loss(values):
        return aggregate(values, mask, denominator, aggregation)

    value, gradient = jax.value_and_grad(loss)(VALUES)
    assert value == 0.0
    assert (np.asarray(gradient) == 0.0).all()


def test_masked_sum_reads_nothing_outside_the_mask():
    gradient = jax.grad(lambda values: masked_sum(values, MASK))(VALUES)
    assert masked_sum(VALUES, MASK) == 16.0
    np.testing.assert_array_equal(gradient, MASK.astype(jnp.float32))


def test_tokens_may_have_advantages_of_their_own():
    log_ratio = jnp.log(jnp.array([[[1.1, 1.1, 0.5]]]))
    losses = clipped_surrogate(log_ratio, jnp.array([[[1.0, -2.0, 3.0]]]), **CLIP)
    np.testing.assert_allclose(losses, [[[-1.1, 2.2, -1.5]]], rtol=1e-6)


def test_the_ratio_of_a_sequence_by_hand():
    new = jnp.log(jnp.array([[[0.5, 0.2, 0.9], [0.3, 0.3, 0.3]]]))
    old = jnp.log(jnp.array([[[0.25, 0.4, 0.1], [0.1, 0.3, 0.3]]]))
    mask = jnp.array([[[True, True, False], [True, False, False]]])
    # sqrt(2 * 1/2) = 1, and 3; tokens after a response don't count.
    ratios = jnp.exp(sequence_log_ratio(new, old, mask))
    np.testing.assert_allclose(ratios, [[[1.0] * 3, [3.0] * 3]], rtol=1e-5)


def test_gspo_equals_its_published_formula():
    """Equations 5 to 7 of arXiv 2507.18071, in NumPy, and its gradient by differences."""
    rng = np.random.default_rng(0)
    new, old = rng.normal(-2.0, 0.02, (2, 3, 4)), rng.normal(-2.0, 0.02, (2, 3, 4))
    lengths, advantages = rng.integers(1, 5, (2, 3)), rng.normal(size=(2, 3))
    mask = np.arange(4) < lengths[..., None]
    bounds = {"clip_low": 0.003, "clip_high": 0.004}

    def published(new):
        s = np.exp(((new - old) * mask).sum(-1) / lengths)
        clipped = np.clip(s, 1 - 0.003, 1 + 0.004)
        return -np.minimum(s * advantages, clipped * advantages).mean()

    def ours(new):
        log_ratio = sequence_log_ratio(new, jnp.asarray(old), jnp.asarray(mask))
        losses = clipped_surrogate(log_ratio, jnp.asarray(advantages)[..., None], **bounds)
        count = loss_denominator(jnp.asarray(mask), "sequence", max_tokens=4)
        return aggregate(losses, jnp.asarray(mask), count, "sequence")

    with jax.enable_x64():
        value, gradient = jax.value_and_grad(ours)(jnp.asarray(new))
        assert value == pytest.approx(published(new), rel=1e-6)
        for place in np.ndindex(new.shape):
            step = np.zeros_like(new)
            step[place] = 1e-6
            slope = (published(new + step) - published(new - step)) / 2e-6
            assert gradient[place] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        # Within the clip it is half the squared error, and pulls the value to its target.
        (0.1, 0.0, 1.0, 0.405, -0.9),
        (0.3, 0.4, 0.0, 0.045, 0.3),
        # Past the clip on the way to the target: the clipped value's error is the larger; no pull.
        (0.6, 0.0, 1.0, 0.32, 0.0),
        (-0.6, 0.0, -1.0, 0.32, 0.0),
        # Past it on the way from the target: its own error is the larger, and it is pulled back.
        (-0.6, 0.0, 1.0, 1.28, -1.6),
    ],
)
def test_the_value_loss_by_hand(value, old, target, loss, gradient):
    def of(value):
        return clipped_value_loss(value * one(1.0), one(old), one(target), clip=0.2)[0, 0, 0]

    found, slope = jax.value_and_grad(of)(jnp.float32(value))
    assert found == pytest.approx(loss, rel=1e-5)
    assert slope == pytest.approx(gradient, abs=1e-6)
