"""The groups that a step learns from: which ones are kept, and with which arrays."""

import dataclasses

import jax
import numpy as np
import pytest

from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.runtime.timing import Stopwatch
from recallm_jax.training import policy_gradient
from recallm_jax.training import rollouts as collecting
from recallm_jax.training.policy_stage import policy_stage
from recallm_jax.training.stages import batches
from tests.oracles import even_tokens, policy_runs


@pytest.fixture(autouse=True)
def reward_of_even_tokens():
    with even_tokens.rewarded():
        yield


@pytest.fixture(scope="module")
def dapo():
    return policy_runs.dapo()


def collect(dapo, spreads, *, most, drawn=0, known=None):
    """Collect 4 groups of 2, if the rewards of the draws differ by these spreads."""
    config, context, stage = dapo
    config = config.copy_and_resolve_references()
    config.grpo.max_draws = most
    draws = iter(spreads)
    reward_groups = collecting.reward_groups

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        totals = np.array([[0.5, 0.5 + spread] for spread in next(draws)], np.float32)
        found = dataclasses.replace(found, totals=totals)
        if known is None:
            return found
        lost = [f"{row}, response {place}" for row, place in np.argwhere(~np.array(known))]
        return dataclasses.replace(found, known=np.array(known), problems=lost)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "reward_groups", changed)
        data = batches(config, context, stage, drawn)
        run = policy_stage(config, context, stage)
        found = policy_gradient.collect(run, context.policy, data, drawn, Stopwatch())
        data.close()
    return found


@pytest.mark.parametrize(
    ("most", "spreads", "kept"),
    [
        (3, [[0.1, 0.2, 0.3, 0.4]], [0.1, 0.2, 0.3, 0.4]),
        (3, [[0.1, 0, 0.2, 0], [0, 0.3, 0.4, 0.45]], [0.1, 0.2, 0.3, 0.4]),
        # At last, groups without a spread fill up the batch.
        (2, [[0, 0, 0, 0], [0, 0.3, 0, 0]], [0.3, 0, 0, 0]),
        # With one draw all groups are kept in their order.
        (1, [[0, 0.3, 0, 0.1]], [0, 0.3, 0, 0.1]),
    ],
)
def test_draws_go_on_until_enough_groups_have_a_spread(dapo, most, spreads, kept):
    found = collect(dapo, spreads, most=most)
    assert found.draws == found.metrics["draws"] == len(spreads)
    assert found.scored.rollout.tokens.shape[:2] == (4, 2)
    assert (found.scored.totals[:, 1] - 0.5).astype(float).round(2).tolist() == kept


def test_kept_responses_stay_with_their_rewards(dapo, monkeypatch):
    rollouts, reward_groups = [], collecting.reward_groups

    def seen(rollout, *others, **options):
        rollouts.append(rollout)
        return reward_groups(rollout, *others, **options)

    monkeypatch.setattr(collecting, "reward_groups", seen)
    # The last group of the second draw is one too many.
    groups = collect(dapo, [[0.1, 0, 0.2, 0], [0, 0.3, 0.4, 0.45]], most=3).scored.rollout
    places = [(0, 0), (0, 2), (1, 1), (1, 2)]
    for row, (draw, place) in enumerate(places):
        both = jax.tree.leaves(groups), jax.tree.leaves(rollouts[draw].rollout)
        for one, other in zip(*both, strict=True):
            np.testing.assert_array_equal(one[row], other[place])
    prompts = np.asarray(groups.prompts.tokens)
    assert len(np.unique(prompts, axis=0)) == 4


def test_no_two_draws_of_a_stage_share_their_random_numbers(dapo, monkeypatch):
    row_keys, drawn_with = collecting.row_keys, []

    def recorded(seed, number, *others):
        drawn_with.append((seed, number))
        return row_keys(seed, number, *others)

    monkeypatch.setattr(collecting, "row_keys", recorded)
    flat = [0, 0, 0, 0]
    first = collect(dapo, [flat, flat, flat], most=3)
    collect(dapo, [flat, flat, flat], most=3, drawn=first.draws * 4)
    assert len(set(drawn_with)) == 6


def test_a_response_without_a_reward_is_empty_for_the_update(dapo):
    known = [[True, True], [False, True], [True, True], [True, False]]
    found = collect(dapo, [[0.1] * 4], most=1, known=known)
    lengths = np.asarray(found.scored.rollout.lengths)
    assert (lengths > 0).tolist() == known == found.scored.known.tolist()
    assert found.rewarded and found.problems == ["1, response 0", "3, response 1"]
    # A single reward in a group has no spread: groups of two come first, even of the second draw.
    found = collect(dapo, [[0.1] * 4, [0.2] * 4], most=2, known=known)
    assert found.scored.known.tolist() == [[True, True]] * 4
    assert found.scored.totals[:, 1].round(2).tolist() == pytest.approx([0.6, 0.6, 0.7, 0.7])


def test_a_response_that_another_process_has_a_reward_for_is_not_a_problem(dapo, monkeypatch):
    config, context, stage = dapo

    def gather_rows(_, batch, count):
        if batch.dtype == bool:
            batch = batch.copy()
            batch[1, 0] = True
        return batch

    monkeypatch.setattr(type(context), "gather_rows", gather_rows)
    known = [[True, True], [False, True], [True, True], [True, False]]
    found = collect((config, context, stage), [[0.1] * 4], most=1, known=known)
    assert found.problems == ["3, response 1"]


def test_a_rollout_in_parts_is_the_same_rollout(dapo):
    """The keys of a row depend on its example, not on the rows sampled beside it."""
    config, context, stage = dapo
    data = batches(config, context, stage, 0)
    prompts, texts = prompts_and_texts(next(data), config.data.target_length)
    data.close()

    def sampled(parts):
        changed = config.copy_and_resolve_references()
        changed.grpo.rollout_parts = parts
        run = policy_stage(changed, context, stage)
        keys = collecting.keys_of(run, texts, 3)
        rollout = collecting.sample(run, context.policy, prompts, keys)
        return rollout, collecting.reward(run, rollout, texts)[1]

    whole, report = sampled(1)
    for parts in (2, 4):
        rollout, report_in_parts = sampled(parts)
        assert rollout.completions == whole.completions
        np.testing.assert_array_equal(rollout.tokens, whole.tokens)
        assert rollout.spans == whole.spans
        both = (dataclasses.replace(some.rollout, log_probs=None) for some in (rollout, whole))
        for one, other in zip(*map(jax.tree.leaves, both), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(rollout.rollout.log_probs, whole.rollout.log_probs, atol=1e-5)
        np.testing.assert_array_equal(report_in_parts.totals, report.totals)
        np.testing.assert_array_equal(report_in_parts.means, report.means)
    assert len({completion.text for group in whole.completions for completion in group}) > 4
