"""The GRPO family and PPO as stages: each one runs, and goes on where it stopped."""

import contextlib
import dataclasses
import itertools
import re
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError
from recallm_jax.training import policy_gradient, rollouts
from recallm_jax.training.policy_gradient import run_policy
from recallm_jax.training.policy_stage import policy_loss, policy_stage
from recallm_jax.training.restore import placed_state, restore_policy
from recallm_jax.training.stages import Loop, Progress, batches, plan_stages
from rl.advantages import OF_GROUPS, group_relative, leave_one_out, mean_centred
from tests.oracles import even_tokens, policy_runs
from tests.oracles.consoles import Listening
from tests.oracles.policy_runs import arguments
from tests.oracles.tiny_run import metrics_of

# TensorBoard's writer and Orbax warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def reward_of_even_tokens(monkeypatch):
    """Reward what a random model can do; all responses to one prompt in three get the same."""
    reward_groups = even_tokens.rewarding(rollouts.reward_groups)

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        flat = np.array([text.number % 3 == 0 for text in texts])
        totals = np.where(flat[:, None], np.float32(0.5), found.totals)
        return dataclasses.replace(found, totals=totals)

    monkeypatch.setattr(rollouts, "reward_groups", changed)


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
def test_an_interrupted_run_ends_as_one_that_was_not(algorithm, tmp_path):
    given = arguments(algorithm)
    assert train.main([*given, f"--workdir={tmp_path / 'whole'}"]) == 0
    # As if killed in its last step, between writing the metrics and saving the checkpoint.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (last,) = (tmp_path / "parts" / "checkpoints").glob("*/3")
    assert last.with_name("2").exists()
    shutil.rmtree(last)
    assert train.main([*given, f"--workdir={tmp_path / 'parts'}"]) == 0
    assert last.exists()
    found = metrics_of(tmp_path / "whole")
    assert metrics_of(tmp_path / "parts") == found
    assert len(found) == 3
    assert all(np.isfinite(list(row.values())[1:]).all() for row in found)
    config = load_config(given)
    context = set_up(config)
    whole, parts = (
        jax.device_get(restore_policy(config, context, tmp_path / name)[0])
        for name in ("whole", "parts")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    start = jax.device_get(context.policy)
    assert not np.array_equal(jax.tree.leaves(whole)[0], jax.tree.leaves(start)[0])
    if algorithm == "dapo":
        # A group without a spread is not learned from while another can be drawn.
        assert max(row["draws"] for row in found) > 1
    if algorithm.startswith("ppo"):
        # The critic starts at 0 and moves towards the rewards.
        assert 0 < found[0]["value"] < found[2]["value"] < found[2]["return"]


@pytest.fixture(scope="module")
def dapo():
    return policy_runs.dapo()


def test_in_every_epoch_the_updates_of_a_batch_cover_all_its_prompts(dapo):
    run = policy_stage(*dapo)
    for step in range(2):
        parts = list(policy_gradient.minibatches(run, step))
        assert [len(part) for part in parts] == [2] * 4
        epochs = [np.concatenate(parts[:2]).tolist(), np.concatenate(parts[2:]).tolist()]
        assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3]] * 2
    orders = {
        tuple(np.concatenate(list(policy_gradient.minibatches(run, step)))) for step in range(8)
    }
    assert len(orders) > 4


def test_algorithms_have_the_settings_of_their_papers():
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
    # Its penalty is part of the reward.
    assert (losses["rloo"].aggregation, losses["rloo"].kl_coefficient) == ("constant", 0)
    assert (losses["dapo"].clip_low, losses["dapo"].clip_high) == (0.2, 0.28)
    assert (losses["gspo"].ratio, losses["gspo"].aggregation) == ("sequence", "sequence")
    assert (losses["ppo"].value_coefficient, losses["ppo"].value_clip) == (0.5, 0.2)


@pytest.fixture
def spoilt(monkeypatch):
    """The first step's rewards are all equal; from the second on there are none."""
    reward_groups, steps = rollouts.reward_groups, itertools.count()

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        if next(steps) == 0:
            return dataclasses.replace(found, totals=np.full_like(found.totals, 0.25))
        places = ((text, place) for text in texts for place in range(found.known.shape[1]))
        why = [f"{text.example_id}, response {place}: it raised" for text, place in places]
        return dataclasses.replace(found, known=np.zeros_like(found.known), problems=why)

    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "reward_groups", changed)
        yield patch


@pytest.mark.parametrize(
    ("kl_coefficient", "left"), [(0.0, ""), (0.1, ", only the KL penalty does")]
)
def test_steps_that_teach_nothing_are_reported_and_one_without_rewards_ends_the_stage(
    dapo, spoilt, kl_coefficient, left
):
    config, context, stage = dapo
    console = Listening()
    context = dataclasses.replace(context, console=console)
    config = config.copy_and_resolve_references()
    config.grpo.max_draws = config.grpo.minibatches = config.grpo.epochs = 1
    config.grpo.kl_in, config.grpo.kl_coefficient = "reward", kl_coefficient
    spoilt.setattr(
        policy_gradient, "policy_update", lambda state, part, **_: (state, {"loss": jnp.zeros(())})
    )
    state, said, saved = placed_state(context.policy, stage, context), console.said, []

    def save(step, state, progress, *, now=False):
        saved.append((step, progress.drawn, now))

    with (
        contextlib.closing(batches(config, context, stage, 0)) as data,
        pytest.raises(UserError, match=r"grpo 1: no response has a reward; .* it raised\."),
    ):
        loop = Loop(range(3), data, Progress(), lambda *row: None, save)
        run_policy(config, context, stage, state, state.policy, loop)
    assert re.match(
        rf"grpo 0: rewards differ in no group; they teach nothing{left}: \S+/0, \S+/1, ", said[0]
    )
    assert re.match(r"grpo 1: no reward for \S+/4, response 0: it raised", said[1])
    # The step can be repeated, with its prompts.
    assert len(said) == 1 + 4 * 2 and saved == [(1, 4, False), (1, 4, True)]


def test_the_time_of_an_update_is_that_of_its_arrays_not_of_its_call(dapo, monkeypatch):
    config, context, stage = dapo
    config = config.copy_and_resolve_references()
    config.grpo.max_draws = config.grpo.minibatches = config.grpo.epochs = 1

    @jax.jit
    def slow(x):
        return jax.lax.fori_loop(0, 4000, lambda _, x: jnp.sin(x), x).mean()

    def late_update(state, part, **_):
        return state, {"loss": slow(x)}

    x = jnp.ones(10_000)
    slow(x).block_until_ready()
    start = time.perf_counter()
    slow(x).block_until_ready()
    wanted = time.perf_counter() - start

    monkeypatch.setattr(policy_gradient, "policy_update", late_update)
    state, written = placed_state(context.policy, stage, context), []
    with contextlib.closing(batches(config, context, stage, 0)) as data:
        write = lambda step, metrics: written.append(metrics)  # noqa: E731
        loop = Loop(range(2), data, Progress(), write, lambda *arguments: None)
        run_policy(config, context, stage, state, state.policy, loop)
    for row in written:
        parts = [row[f"seconds_{part}"] for part in ("data", "rollout", "reward", "scores")]
        assert min(parts) > 0 and row["seconds_update"] > wanted / 2
        assert sum(parts) + row["seconds_update"] <= row["seconds_step"]
        tokens = 4 * (row["prompt_tokens"] + config.grpo.group_size * row["response_tokens"])
        for part in ("rollout", "update"):
            rate, seconds = row[f"tokens_per_second_{part}"], row[f"seconds_{part}"]
            assert rate * seconds == pytest.approx(tokens)


@pytest.mark.slow
def test_a_batch_without_rewards_stops_the_run_after_saving_it(spoilt, tmp_path, capsys):
    given = [*arguments("grpo"), "--config.checkpoint.every_steps=20", f"--workdir={tmp_path}"]
    assert train.main(given) == 2
    spoilt.undo()
    said, error = capsys.readouterr()
    # A line about the first step, whose rewards are all equal.
    assert re.search(r"grpo 0: rewards differ in no group; they teach nothing.*: \S+/\d+, ", said)
    assert re.search(r"grpo 1: no reward for \S+/\d+, response 0: it raised", said)
    error = error.strip().splitlines()[-1]
    assert error.startswith("error: grpo 1: no response has a reward; the first: ")
    assert "Step 1 is saved" in error
    # The step is repeated, with the prompts that had no reward.
    assert [row["step"] for row in metrics_of(tmp_path)] == [0]
    assert train.main(given) == 0
    assert [row["step"] for row in metrics_of(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["grpo.minibatches=3"], "prompts_per_step = 4 is not a multiple of grpo.minibatches = 3"),
        (
            ["grpo.minibatches=4"],
            "minibatches = 4 / 4 = 1 is not a multiple of grpo.micro_batch = 2",
        ),
        (
            ["ppo.overlong_buffer=9999", "stages=('ppo',)"],
            "config.ppo.overlong_buffer = 9999 exceeds",
        ),
        (
            ["grpo.rollout_parts=3"],
            "prompts_per_step = 4 cannot be sampled in rollout_parts = 3 equal parts",
        ),
        (["grpo.advantage=best"], "'best' is not one of 'group', 'centred',"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    sizes = ["--config.grpo.prompts_per_step=4", "--config.grpo.micro_batch=2"]
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(
            ["--config=configs/quickstart.py", *sizes, *(f"--config.{one}" for one in changes)]
        )
