"""The GRPO family and PPO as stages: each runs, goes on where it stopped, and draws as it says."""

import contextlib
import dataclasses
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.prompts import Prompts
from decoding.suffix_index import build_index
from recallm_jax import policy_stages, train
from recallm_jax.config import load_config
from recallm_jax.errors import UserError
from recallm_jax.metric_writer import read_metrics
from recallm_jax.policy_stages import Collected, group_batch, policy_loss, ppo_batch, run_policy
from recallm_jax.restore_policy import placed_state, restore_policy
from recallm_jax.setup_policy import set_up
from recallm_jax.stages import batches, plan_stages
from rl.advantages import OF_GROUPS, group_relative, leave_one_out, mean_centred
from rl.batch import Responses

# TensorBoard's writer and Orbax warn about their own insides.
pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = [
    "--config.data.source=generated",
    "--config.data.mixture.math_retrieval=0",
    "--config.decoding.max_new_tokens=24",
    "--config.evaluation.modes=constrained-greedy",
    "--config.evaluation.num_examples=1",
    "--config.evaluation.batch_size=1",
    # High enough that a step's policy is measurably another.
    "--config.optimizer.learning_rate=1e-3",
]
UPDATES = ["prompts_per_step=4", "micro_batch=1", "minibatches=2", "epochs=2", "steps=3"]


def arguments(algorithm: str) -> list[str]:
    stage = "ppo" if algorithm.startswith("ppo") else "grpo"
    name = algorithm.removesuffix("-own")
    found = [f"--config=configs/quickstart.py:tiny,algorithm={name}", *SMALL]
    found += [f"--config.stages=('{stage}',)", *(f"--config.{stage}.{one}" for one in UPDATES)]
    return found + ["--config.ppo.critic=own"] * algorithm.endswith("-own")


@pytest.fixture(autouse=True)
def reward_of_even_tokens(monkeypatch):
    """Reward what a random model can do; one prompt in three gives all its responses the same."""
    reward_groups = policy_stages.reward_groups

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        tokens = np.asarray(rollout.responses.tokens)
        real = np.arange(tokens.shape[-1]) < np.asarray(rollout.responses.lengths)[..., None]
        totals = (real & (tokens % 2 == 0)).sum(axis=-1) / real.sum(axis=-1)
        flat = np.array([text.number % 3 == 0 for text in texts])
        totals = np.where(flat[:, None], 0.5, totals)
        return dataclasses.replace(found, totals=totals.astype(np.float32))

    monkeypatch.setattr(policy_stages, "reward_groups", changed)


class Killed(Exception):
    pass


def metrics_of(workdir):
    rows = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.mark.parametrize(
    "algorithm",
    [
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("dr_grpo", "rloo", "dapo", "gspo", "ppo")
        ),
        "ppo-own",
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(algorithm, tmp_path, monkeypatch):
    given = arguments(algorithm)
    assert train.main([*given, f"--workdir={tmp_path / 'whole'}"]) == 0
    write, rows = train.MetricWriter.write, itertools.count()

    def killed_at_the_last_step(*row):
        if next(rows) == 2:
            raise Killed
        write(*row)

    with monkeypatch.context() as patch:
        patch.setattr(train.MetricWriter, "write", killed_at_the_last_step)
        with pytest.raises(Killed):
            train.main([*given, f"--workdir={tmp_path / 'parts'}"])
    assert train.main([*given, f"--workdir={tmp_path / 'parts'}"]) == 0
    found = metrics_of(tmp_path / "whole")
    assert metrics_of(tmp_path / "parts") == found
    assert len(found) == 3
    assert all(np.isfinite(list(row.values())[1:]).all() for row in found)
    config = load_config(given)
    setup = set_up(config)
    whole, parts = (
        jax.device_get(restore_policy(config, setup, tmp_path / name)[0])
        for name in ("whole", "parts")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    start = jax.device_get(setup.policy)
    assert not np.array_equal(jax.tree.leaves(whole)[0], jax.tree.leaves(start)[0])
    if algorithm == "dapo":
        # A group without a spread is not learned from while another can be drawn.
        assert max(row["draws"] for row in found) > 1
    if algorithm.startswith("ppo"):
        # It starts at 0 and goes where the rewards are.
        assert 0 < found[0]["value"] < found[2]["value"] < found[2]["return"]


@pytest.fixture(scope="module")
def dapo():
    config = load_config([*arguments("dapo"), "--config.grpo.max_draws=3"])
    setup = set_up(config)
    (stage,) = plan_stages(config, setup)
    return config, setup, stage


def collect(dapo, spreads, *, most, drawn=0, known=None):
    """Collect 4 groups of 2, if the rewards of the draws differ by these spreads."""
    config, setup, stage = dapo
    config = config.copy_and_resolve_references()
    config.grpo.max_draws = most
    draws = iter(spreads)
    reward_groups = policy_stages.reward_groups

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        totals = np.array([[0.5, 0.5 + spread] for spread in next(draws)], np.float32)
        found = dataclasses.replace(found, totals=totals)
        return found if known is None else dataclasses.replace(found, known=np.array(known))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_stages, "reward_groups", changed)
        data = batches(config, setup, stage, drawn)
        found = policy_stages._collect(config, setup, stage, setup.policy, data, drawn)
        data.close()
    return found


@pytest.mark.parametrize(
    ("most", "spreads", "kept"),
    [
        (3, [[0.1, 0.2, 0.3, 0.4]], [0.1, 0.2, 0.3, 0.4]),
        (3, [[0.1, 0, 0.2, 0], [0, 0.3, 0.4, 0.45]], [0.1, 0.2, 0.3, 0.4]),
        # At last those without a spread fill up what is left.
        (2, [[0, 0, 0, 0], [0, 0.3, 0, 0]], [0.3, 0, 0, 0]),
        # With one draw all groups are kept in their order.
        (1, [[0, 0.3, 0, 0.1]], [0, 0.3, 0, 0.1]),
    ],
)
def test_draws_go_on_until_enough_groups_have_a_spread(dapo, most, spreads, kept):
    found = collect(dapo, spreads, most=most)
    assert found.draws == found.metrics["draws"] == len(spreads)
    assert found.responses.tokens.shape[:2] == (4, 2)
    assert (found.totals[:, 1] - 0.5).astype(float).round(2).tolist() == kept


def test_no_two_draws_of_a_stage_share_their_random_numbers(dapo, monkeypatch):
    row_keys, drawn_with = policy_stages.row_keys, []

    def recorded(seed, number, *others):
        drawn_with.append((seed, number))
        return row_keys(seed, number, *others)

    monkeypatch.setattr(policy_stages, "row_keys", recorded)
    flat = [0, 0, 0, 0]
    first = collect(dapo, [flat, flat, flat], most=3)
    collect(dapo, [flat, flat, flat], most=3, drawn=first.draws * 4)
    assert len(set(drawn_with)) == 6


def test_a_response_without_a_reward_is_empty_for_the_update(dapo):
    known = [[True, True], [False, True], [True, True], [True, False]]
    found = collect(dapo, [[0.1] * 4], most=1, known=known)
    assert (np.asarray(found.responses.lengths) > 0).tolist() == known == found.known.tolist()
    assert found.rewarded
    # Alone in its group a reward has no spread: those of two come first, also of the second draw.
    found = collect(dapo, [[0.1] * 4, [0.2] * 4], most=2, known=known)
    assert found.known.tolist() == [[True, True]] * 4
    assert found.totals[:, 1].round(2).tolist() == pytest.approx([0.6, 0.6, 0.7, 0.7])


def test_a_rollout_in_parts_is_the_same_rollout(dapo):
    """A row's keys are those of its example, whatever else is sampled beside it."""
    config, setup, stage = dapo
    data = batches(config, setup, stage, 0)
    records = next(data)
    data.close()

    def sampled(parts):
        changed = config.copy_and_resolve_references()
        changed.grpo.rollout_parts = parts
        return policy_stages._sample(changed, setup, stage, setup.policy, records, 3)

    whole, scored, means = sampled(1)
    for parts in (2, 4):
        rollout, scored_in_parts, means_in_parts = sampled(parts)
        assert rollout.completions == whole.completions
        np.testing.assert_array_equal(rollout.tokens, whole.tokens)
        assert rollout.spans == whole.spans
        fields = (jax.tree.leaves(some.responses) for some in (rollout, whole))
        for one, other in zip(*fields, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(rollout.sampler_log_probs, whole.sampler_log_probs, atol=1e-5)
        np.testing.assert_array_equal(scored_in_parts.totals, scored.totals)
        np.testing.assert_array_equal(means_in_parts, means)
    assert len({completion.text for group in whole.completions for completion in group}) > 4


def test_the_updates_of_a_batch_are_on_all_its_prompts_in_every_epoch(dapo):
    config, _, stage = dapo
    for step in range(2):
        parts = list(policy_stages._minibatches(config, stage, step))
        assert [len(part) for part in parts] == [2] * 4
        epochs = [np.concatenate(parts[:2]).tolist(), np.concatenate(parts[2:]).tolist()]
        assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3]] * 2
    orders = {
        tuple(np.concatenate(list(policy_stages._minibatches(config, stage, step))))
        for step in range(8)
    }
    assert len(orders) > 4


def by_hand(tokens_of):
    """Return a collected group of responses with these lengths; other fields are not read."""
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
    return Collected(
        Responses(prompt, index, tokens, lengths),
        sampler,
        np.zeros((1, size)),
        np.ones((1, size), bool),
        True,
        {},
        [],
        1,
        [],
    )


def test_a_penalty_in_the_reward_lowers_what_the_reference_finds_unlikely():
    options = load_config(["--config=configs/quickstart.py:algorithm=rloo"]).grpo
    collected = by_hand([2, 1])
    reference = jnp.log(jnp.array([[[0.25, 0.25, 0.1], [0.25, 0.1, 0.1]]]))
    totals = jnp.array([[0.6, 0.6]])
    known = jnp.array([[True, True]])
    batch, metrics = group_batch(options, collected, totals, known, None, reference)
    # Two tokens half as likely: k1 is 2 log 2, and 0 for the other response, whose second position
    # is none of its tokens. Each against the other, times the coefficient.
    penalty = 0.001 * 2 * math.log(2)
    np.testing.assert_allclose(batch.advantages[..., 0], [[-penalty, penalty]], rtol=1e-3)
    assert metrics["kl_penalty"] == pytest.approx(math.log(2))
    assert batch.reference_log_probs is None
    # With a third that has no reward, and no tokens: nothing else changes.
    three = by_hand([2, 1, 0])
    reference = jnp.concatenate([reference, reference[:, :1]], axis=1)
    totals, known = jnp.array([[0.6, 0.6, 0.0]]), jnp.array([[True, True, False]])
    batch, _ = group_batch(options, three, totals, known, None, reference)
    np.testing.assert_allclose(batch.advantages[..., 0], [[-penalty, penalty, 0]], rtol=1e-3)


def test_the_targets_of_ppo_by_hand():
    options = load_config(["--config=configs/quickstart.py:algorithm=ppo"]).ppo
    options = options.copy_and_resolve_references().unlock()
    options.kl_coefficient, options.discount, options.trace_decay = 0.5, 1.0, 0.5
    collected = by_hand([2, 1])
    old, values = collected.sampler_log_probs, jnp.array([[[0.2, 0.4, 7.0], [0.1, 7.0, 7.0]]])
    reference = jnp.log(jnp.array([[[0.25, 0.5, 0.1], [0.5, 0.1, 0.1]]]))
    batch, metrics = ppo_batch(options, collected, jnp.array([[1.0, 0.3]]), old, values, reference)
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


def test_algorithms_are_what_their_papers_say():
    losses, advantages = {}, {}
    for name in ("grpo", "dr_grpo", "rloo", "dapo", "gspo", "ppo"):
        config = load_config([f"--config=configs/quickstart.py:algorithm={name}"])
        stage = plan_stages(config, set_up(load_config(arguments("dapo"))))[-1]
        losses[name] = policy_loss(config, stage)
        advantages[name] = OF_GROUPS[config.grpo.advantage]
    wanted = {"dr_grpo": mean_centred, "rloo": leave_one_out}
    assert advantages == dict.fromkeys(losses, group_relative) | wanted
    grpo = losses["grpo"]
    assert (grpo.ratio, grpo.aggregation, grpo.kl_coefficient) == ("token", "token", 0.001)
    assert (losses["dr_grpo"].aggregation, losses["dr_grpo"].kl_coefficient) == ("constant", 0)
    # Its penalty stands in the reward.
    assert (losses["rloo"].aggregation, losses["rloo"].kl_coefficient) == ("constant", 0)
    assert (losses["dapo"].clip_low, losses["dapo"].clip_high) == (0.2, 0.28)
    assert (losses["gspo"].ratio, losses["gspo"].aggregation) == ("sequence", "sequence")
    assert (losses["ppo"].value_coefficient, losses["ppo"].value_clip) == (0.5, 0.2)


@pytest.fixture
def spoilt(monkeypatch):
    """The first step's rewards are all equal; from the second on there are none."""
    reward_groups, steps = policy_stages.reward_groups, itertools.count()

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        if next(steps) == 0:
            return dataclasses.replace(found, totals=np.full_like(found.totals, 0.25))
        why = [f"{texts[0].example_id}, response 0: it raised"]
        return dataclasses.replace(found, known=np.zeros_like(found.known), problems=why)

    with monkeypatch.context() as patch:
        patch.setattr(policy_stages, "reward_groups", changed)
        yield patch


def test_steps_that_teach_nothing_are_told_of_and_one_without_rewards_ends_the_stage(dapo, spoilt):
    config, setup, stage = dapo
    config = config.copy_and_resolve_references()
    config.grpo.max_draws = config.grpo.minibatches = config.grpo.epochs = 1
    spoilt.setattr(policy_stages, "policy_update", lambda state, part, **_: (state, {"loss": 0.0}))
    state, said, saved = placed_state(setup.policy, stage, setup), [], []

    def save(step, state, drawn, *, now=False):
        saved.append((step, drawn, now))

    how = {"drawn": 0, "write": lambda *row: None, "save": save, "say": said.append}
    with (
        contextlib.closing(batches(config, setup, stage, 0)) as data,
        pytest.raises(UserError, match=r"grpo 1: no response has a reward; .* it raised\."),
    ):
        run_policy(config, setup, stage, state, state.policy, steps=range(3), data=data, **how)
    assert re.match(
        r"grpo 0: rewards differ in no group; they teach nothing: \S+/0, \S+/1, ", said[0]
    )
    assert re.match(r"grpo 1: no reward for \S+/4, response 0: it raised", said[1])
    # The step can be made again, with its prompts.
    assert len(said) == 2 and saved == [(1, 4, False), (1, 4, True)]


@pytest.mark.slow
def test_a_batch_without_rewards_stops_the_run_with_what_it_has_learnt(spoilt, tmp_path, capsys):
    given = [*arguments("grpo"), "--config.checkpoint.every_steps=20", f"--workdir={tmp_path}"]
    assert train.main(given) == 2
    spoilt.undo()
    said, error = capsys.readouterr()
    # Of the first step, whose rewards are all equal.
    assert re.search(r"grpo 0: rewards differ in no group; they teach nothing: \S+/\d+, ", said)
    assert re.search(r"grpo 1: no reward for \S+/\d+, response 0: it raised", said)
    error = error.strip().splitlines()[-1]
    assert error.startswith("error: grpo 1: no response has a reward; the first: ")
    assert "Step 1 is saved" in error
    # The step is made again, with the prompts that had no reward.
    assert [row["step"] for row in metrics_of(tmp_path)] == [0]
    assert train.main(given) == 0
    assert [row["step"] for row in metrics_of(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["grpo.minibatches=3"], "prompts_per_step = 4 is no multiple of grpo.minibatches = 3"),
        (["grpo.minibatches=4"], "minibatches = 4 / 4 = 1 is no multiple of grpo.micro_batch = 2"),
        (
            ["ppo.overlong_buffer=9999", "stages=('ppo',)"],
            "config.ppo.overlong_buffer = 9999 exceeds",
        ),
        (
            ["grpo.rollout_parts=3"],
            "prompts_per_step = 4 cannot be sampled in rollout_parts = 3 equal parts",
        ),
        (["grpo.advantage=best"], "'best' is no choice; use 'group' or 'centred' or"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    sizes = ["--config.grpo.prompts_per_step=4", "--config.grpo.micro_batch=2"]
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(
            ["--config=configs/quickstart.py", *sizes, *(f"--config.{one}" for one in changes)]
        )
