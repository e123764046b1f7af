import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.advantages import (
    generalized,
    group_relative,
    has_spread,
    leave_one_out,
    mean_centred,
    token_rewards,
    whiten,
)

REWARDS = jnp.array([[0.0, 0.5, 1.0, 0.5], [0.3, 0.3, 0.3, 0.3]])


def test_group_relative_by_hand():
    # Mean 0.5, squares 0.25 + 0.25: the spread over G - 1 = 3 is 0.408; over G, 0.354 would make
    # the first advantage -1.414.
    expected = [[-1.2247449, 0.0, 1.2247449, 0.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(group_relative(REWARDS, epsilon=0.0), expected, atol=1e-6)


def test_a_group_of_equal_rewards_has_advantage_zero_exactly():
    # 0.1 has no exact mean: the rounding error over epsilon would be a large advantage.
    rewards = jnp.full((1, 7), 0.1)
    assert (np.asarray(group_relative(rewards, epsilon=0.0)) == 0.0).all()


def test_rewards_that_differ_by_rounding_alone_teach_next_to_nothing():
    # The last differs by at most 1.2e-7, two float32 steps at 1: the spread is at most 6.9e-8,
    # which epsilon, 1e-6, outweighs. Without it the last advantage would be 3 / 2 or more.
    rewards = jnp.array([[0.5, 0.5, 0.5, 0.5000001]], jnp.float32)
    assert has_spread(rewards, jnp.ones(rewards.shape, bool)).all()
    advantages = np.asarray(group_relative(rewards))[0]
    assert 0.05 < advantages[3] < 0.12
    assert np.abs(advantages[:3]).max() < 0.05


def test_a_group_of_one_has_advantage_zero():
    assert group_relative(jnp.array([[0.7]])).tolist() == [[0.0]]


@pytest.mark.parametrize("advantage", [group_relative, mean_centred, leave_one_out])
def test_the_better_response_has_the_positive_advantage(advantage):
    worse, better = advantage(jnp.array([[0.2, 0.9]]))[0].tolist()
    assert worse < 0 < better


@pytest.mark.parametrize("advantage", [group_relative, mean_centred, leave_one_out])
def test_groups_do_not_mix_and_a_common_bonus_changes_nothing(advantage):
    rewards = jax.random.uniform(jax.random.key(0), (3, 4))
    whole = advantage(rewards)
    np.testing.assert_allclose(whole[1:2], advantage(rewards[1:2]), atol=1e-6)
    np.testing.assert_allclose(whole, advantage(rewards + 0.5), atol=1e-5)
    np.testing.assert_allclose(whole.sum(axis=1), 0.0, atol=1e-5)


def test_group_relative_does_not_depend_on_the_scale_of_rewards():
    np.testing.assert_allclose(
        group_relative(REWARDS * 10, epsilon=0.0),
        group_relative(REWARDS, epsilon=0.0),
        atol=1e-6,
    )


def test_mean_centred_by_hand():
    expected = [[-0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(mean_centred(REWARDS), expected, atol=1e-7)


def test_leave_one_out_by_hand():
    # The first response against the mean of 0.5, 1 and 0.5, not of all four.
    expected = [-2 / 3, 0.0, 2 / 3, 0.0]
    np.testing.assert_allclose(leave_one_out(REWARDS)[0], expected, atol=1e-6)


def test_leave_one_out_needs_two():
    with pytest.raises(ValueError, match="at least 2 responses"):
        leave_one_out(jnp.ones((2, 1)))


@pytest.mark.parametrize("advantage", [group_relative, mean_centred, leave_one_out])
def test_a_response_without_a_reward_is_as_if_it_were_not_there(advantage):
    rewards = jnp.array([[0.2, 0.0, 0.6, 0.7], [0.3, 0.0, 0.4, 0.9]])
    known = jnp.array([[True, False, True, True]] * 2)
    found = advantage(rewards, known)
    np.testing.assert_allclose(found[:, [0, 2, 3]], advantage(rewards[:, [0, 2, 3]]), atol=1e-6)
    assert found[:, 1].tolist() == [0.0, 0.0]
    # A response left alone is neither better nor worse than the others.
    alone = advantage(rewards, jnp.array([[False, True, False, False], [False] * 4]))
    assert (np.asarray(alone) == 0).all()


def test_equal_rewards_beside_one_that_is_missing_have_advantage_zero_exactly():
    rewards, known = jnp.full((1, 7), 0.1).at[0, 3].set(0.0), jnp.ones((1, 7), bool)
    known = known.at[0, 3].set(False)
    assert (np.asarray(group_relative(rewards, known, epsilon=0.0)) == 0.0).all()
    assert has_spread(rewards, known).tolist() == [False]
    assert has_spread(rewards, jnp.ones((1, 7), bool)).tolist() == [True]


R_T = jnp.array([[[0.0, 0.0, 1.0, 9.0]]])
V_T = jnp.array([[[0.5, 0.25, 0.75, 9.0]]])
MASK = jnp.array([[[True, True, True, False]]])


def test_generalized_by_hand():
    # delta: 0.9 * 0.25 - 0.5, 0.9 * 0.75 - 0.25, 1 - 0.75 (nothing follows the last token;
    # reading the padding's value would add 8.1), summed backwards with 0.9 * 0.5.
    last = 0.25
    middle = 0.425 + 0.45 * last
    first = -0.275 + 0.45 * middle
    advantages = generalized(R_T, V_T, MASK, discount=0.9, trace_decay=0.5)
    np.testing.assert_allclose(advantages, [[[first, middle, last, 0.0]]], atol=1e-6)


def test_generalized_with_full_trace_is_return_minus_value():
    advantages = generalized(R_T, V_T, MASK, discount=1.0, trace_decay=1.0)
    np.testing.assert_allclose(advantages, [[[0.5, 0.75, 0.25, 0.0]]], atol=1e-6)


def test_generalized_without_trace_is_the_temporal_difference():
    advantages = generalized(R_T, V_T, MASK, discount=1.0, trace_decay=0.0)
    np.testing.assert_allclose(advantages, [[[-0.25, 0.5, 0.25, 0.0]]], atol=1e-6)


def test_generalized_under_a_mask_equals_dropping_the_tokens():
    whole = generalized(R_T, V_T, MASK, discount=0.9, trace_decay=0.8)
    cut = generalized(R_T[..., :3], V_T[..., :3], MASK[..., :3], discount=0.9, trace_decay=0.8)
    np.testing.assert_array_equal(whole[..., :3], cut)


def test_generalized_has_finite_gradients_beside_nan_padding():
    def total(values):
        values = jnp.where(MASK, values, jnp.nan)
        return generalized(R_T, values, MASK, discount=0.9, trace_decay=0.8).sum()

    assert np.isfinite(jax.grad(total)(V_T)).all()


def test_rewards_of_tokens_by_hand():
    kl = jnp.array([[[0.5, -0.25, 9.0], [1.0, 1.0, 2.0]]])
    found = token_rewards(jnp.array([[0.8, 0.3]]), kl, jnp.array([[2, 3]]), coefficient=0.1)
    # The penalty lowers the reward of what the reference finds unlikely.
    np.testing.assert_allclose(found, [[[-0.05, 0.825, 0.0], [-0.1, -0.1, 0.1]]], atol=1e-6)


def test_whitened_advantages_by_hand():
    advantages = jnp.array([[[1.0, 3.0, 100.0], [5.0, 7.0, np.nan]]])
    mask = jnp.array([[[True, True, False], [True, True, False]]])
    # Mean 4, variance 5; padding does not count, and gets 0.
    spread = np.sqrt(5.0)
    expected = [[[-3 / spread, -1 / spread, 0.0], [1 / spread, 3 / spread, 0.0]]]
    np.testing.assert_allclose(whiten(advantages, mask), expected, rtol=1e-5)
    # Equal advantages give no direction.
    assert (np.asarray(whiten(jnp.full((1, 2, 3), 0.1), jnp.ones((1, 2, 3), bool))) == 0).all()
