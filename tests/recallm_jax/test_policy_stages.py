"""The GRPO family and PPO as stages: each runs, goes on where it stopped, and draws as it says."""

import dataclasses
import itertools
import re

import jax
import numpy as np
import pytest

from recallm_jax import policy_stages, train
from recallm_jax.config import load_config
from recallm_jax.errors import UserError
from recallm_jax.metric_writer import read_metrics
from recallm_jax.policy_stages import policy_loss
from recallm_jax.restore_policy import restore_policy
from recallm_jax.setup_policy import set_up
from recallm_jax.stages import batches, plan_stages

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
            for name in ("dr_grpo", "rloo", "gspo", "ppo")
        ),
        *("dapo", "ppo-own"),
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


def collected(count, spreads, most):
    """Return the totals that a step of 4 groups learns from, if draws have these spreads."""
    config = load_config([*arguments("dapo"), f"--config.grpo.max_draws={most}"])
    setup = set_up(config)
    (stage,) = plan_stages(config, setup)
    draws = iter(spreads)
    reward_groups = policy_stages.reward_groups

    def changed(rollout, texts, *others, **options):
        found = reward_groups(rollout, texts, *others, **options)
        totals = np.array([[0.5, 0.5 + spread] for spread in next(draws)], np.float32)
        return dataclasses.replace(found, totals=totals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_stages, "reward_groups", changed)
        data = batches(config, setup, stage, 0)
        found = policy_stages._collect(config, setup, stage, setup.policy, data, 0)
        data.close()
    assert found.draws == count
    assert found.responses.tokens.shape[:2] == (4, 2)
    assert found.metrics["draws"] == count
    return (found.totals[:, 1] - 0.5).astype(float).round(2).tolist()


def test_draws_go_on_until_enough_groups_have_a_spread():
    assert collected(1, [[0.1, 0.2, 0.3, 0.4]], 3) == [0.1, 0.2, 0.3, 0.4]
    assert collected(2, [[0.1, 0, 0.2, 0], [0, 0.3, 0.4, 0.45]], 3) == [0.1, 0.2, 0.3, 0.4]
    # At last those without a spread fill up what is left.
    assert collected(2, [[0, 0, 0, 0], [0, 0.3, 0, 0]], 2) == [0.3, 0, 0, 0]
    # With one draw all groups are kept in their order.
    assert collected(1, [[0, 0.3, 0, 0.1]], 1) == [0, 0.3, 0, 0.1]


def test_algorithms_are_what_their_papers_say():
    losses = {}
    for name in ("grpo", "dr_grpo", "rloo", "dapo", "gspo", "ppo"):
        config = load_config([f"--config=configs/quickstart.py:algorithm={name}"])
        stage = plan_stages(config, set_up(load_config(arguments("dapo"))))[-1]
        losses[name] = policy_loss(config, stage)
    grpo = losses["grpo"]
    assert (grpo.ratio, grpo.aggregation, grpo.kl_coefficient) == ("token", "token", 0.001)
    assert (losses["dr_grpo"].aggregation, losses["dr_grpo"].kl_coefficient) == ("constant", 0)
    # Its penalty stands in the reward.
    assert (losses["rloo"].aggregation, losses["rloo"].kl_coefficient) == ("sequence", 0)
    assert (losses["dapo"].clip_low, losses["dapo"].clip_high) == (0.2, 0.28)
    assert (losses["gspo"].ratio, losses["gspo"].aggregation) == ("sequence", "sequence")
    assert (losses["ppo"].value_coefficient, losses["ppo"].value_clip) == (0.5, 0.2)


def test_a_reward_that_never_comes_stops_the_run_with_one_line(monkeypatch, tmp_path, capsys):
    def nothing(*arguments, **options):
        raise ValueError("no response of the batch has a reward; the first: example/0: it raised")

    monkeypatch.setattr(policy_stages, "reward_groups", nothing)
    assert train.main([*arguments("gspo"), f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == (
        "error: grpo, step 0: no response of the batch has a reward; the first: example/0: it "
        "raised"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["grpo.minibatches=3"], "prompts_per_step = 4 is no multiple of grpo.minibatches = 3"),
        (["grpo.minibatches=4"], "minibatches = 4 / 4 = 1 is no multiple of grpo.micro_batch = 2"),
        (
            ["ppo.overlong_buffer=9999", "stages=('ppo',)"],
            "config.ppo.overlong_buffer = 9999 exceeds",
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
