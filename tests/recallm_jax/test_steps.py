"""Single steps of training: the same on one device as on eight, and in parts as in one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.packing import RowSize
from decoding.sampling import Sampling, row_keys
from decoding.span_scores import Scoring
from recallm_jax.config.load import load_config
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.data.records import train_records
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.partitioning import make_mesh, place_model
from recallm_jax.policy.setup import set_up
from recallm_jax.training import policy_gradient, policy_stage, rollouts, sft, stages
from recallm_jax.training.restore import placed_state
from recallm_jax.training.stages import Loop, Progress, plan_stages
from rl.batch import Batch
from rl.learner import PolicyLoss, policy_update, score_in_parts
from rl.packing import pack

CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
]
# It makes Adam's step proportional to the gradient where that is small, so that rounding does not
# decide the sign of whole steps.
LARGE_EPSILON = "--config.optimizer.eps=1e-2"


class Seen(Exception):
    """The test has seen the arguments; the step itself is not to run."""


@pytest.mark.parametrize("constrained", [True, False])
def test_a_run_samples_and_scores_under_the_constraint_or_all_without(constrained, monkeypatch):
    config = load_config([*CONFIG, f"--config.decoding.constrained={constrained}"])
    context = set_up(config)
    rules = []

    def scoring(config, given, *, temperature):
        rules.append(given)
        return stages_scoring(config, given, temperature=temperature)

    def stop(*arguments, **options):
        if "limits" in options:
            rules.append(options["limits"].rules)
        raise Seen

    stages_scoring = stages.scoring_of
    monkeypatch.setattr(sft, "scoring_of", scoring)
    monkeypatch.setattr(policy_stage, "scoring_of", scoring)
    monkeypatch.setattr(sft, "sft_update", stop)
    monkeypatch.setattr(rollouts, "decode", stop)

    def loop(stage):
        return Loop(range(1), stages.batches(config, context, stage, 0), Progress(), stop, stop)

    _, phase_2, grpo = plan_stages(config, context)
    with pytest.raises(Seen):
        state = placed_state(context.policy, phase_2, context)
        sft.run_sft(config, context, phase_2, state, loop(phase_2))
    with pytest.raises(Seen):
        state = placed_state(context.policy, grpo, context)
        policy_gradient.run_policy(config, context, grpo, state, context.policy, loop(grpo))
    # The rules of the cold start's loss, of the policy's loss, and of the sampler.
    assert [one.constrained for one in rules] == [constrained] * 3


def assert_moved_alike(got, expected, start):
    """Compare the changes of parameters; each array must have changed."""
    # As leaves, since the trees differ in the mesh of their static fields.
    for after, wanted, before in zip(*map(jax.tree.leaves, (got, expected, start)), strict=True):
        way = wanted - before
        assert abs(way).max() > 1e-4
        np.testing.assert_allclose(after - before, way, rtol=0, atol=1e-3 * abs(way).max())


def sampled_and_scored(config, context):
    """Return the rollout of a step, how it is scored, and its log-probabilities."""
    records = train_records(config, context.tokenizer, 0)
    prompts, texts = prompts_and_texts([next(records) for _ in range(8)], 256)
    rules = span_rules(config, context.tokenizer)
    rollout = decode(
        context.policy,
        context.place(prompts),
        row_keys(0, 0, np.array([text.number for text in texts], np.uint32), 2),
        sampling=Sampling(temperature=1.0),
        limits=Limits(rules, 24, context.tokenizer.end_ids),
    )
    scoring = Scoring(rules=rules, budget=24, temperature=1.0, chunk=10)
    scores = score_in_parts(context.policy, rollout, scoring=scoring, packing=packed(rollout, 2))
    return rollout, scoring, scores


def packed(rollout, num_parts):
    """Return micro-batches of one size of rows."""
    return pack(np.asarray(rollout.lengths), (RowSize(1, 2 * 24),), num_parts)


def grpo_step(config, context):
    """Return the samples, scores and updated state of a step."""
    rollout, scoring, scored = sampled_and_scored(config, context)
    # A policy other than the trained one, so that the KL penalty is not 0.
    smaller = jax.tree.map(lambda x: 0.5 * x, context.policy)
    reference = score_in_parts(smaller, rollout, scoring=scoring, packing=packed(rollout, 2))
    # They don't sum to 0 over a group, so that the loss is not 0.
    advantages = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    batch = Batch(
        rollout,
        advantages=context.place(advantages)[..., None],
        reference_log_probs=reference,
    )
    stage = plan_stages(config, context)[2]
    state, metrics = policy_update(
        placed_state(context.policy, stage, context),
        batch,
        optimizer=stage.optimizer,
        scoring=scoring,
        loss=PolicyLoss(0.2, 0.2, 0.001, 2.0),
        packing=packed(rollout, 2),
    )
    arrays = (rollout, scored, metrics, state.policy)
    return jax.device_get(arrays)


def on_eight_devices(alone):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    return Context(
        place_model(alone.policy, mesh), alone.tokenizer, alone.files, mesh, alone.console
    )


def with_random_adapters(context):
    """Return the context with adapters that are not 0, so that each has a gradient."""
    keys = iter(jax.random.split(jax.random.key(1), 99))
    trained = {
        name: value + 0.1 * jax.random.normal(next(keys), value.shape)
        for name, value in context.policy.trained().items()
    }
    return dataclasses.replace(context, policy=context.policy.with_trained(trained))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_eight_devices_sample_score_and_update_like_one(lora):
    config = load_config([*CONFIG, "--config.optimizer.learning_rate=0.1", LARGE_EPSILON])
    config.model.lora.rank = 4 if lora else 0
    alone = set_up(config)
    alone = with_random_adapters(alone) if lora else alone
    one, eight = grpo_step(config, alone), grpo_step(config, on_eight_devices(alone))
    rollout, scored, metrics, policy = one
    np.testing.assert_array_equal(eight[0].tokens, rollout.tokens)
    real = np.arange(24) < np.asarray(rollout.lengths)[..., None]
    np.testing.assert_allclose(eight[1][real], scored[real], rtol=1e-5, atol=1e-5)
    # The trainer finds the sampler's own log-probabilities.
    np.testing.assert_allclose(rollout.log_probs[real], scored[real], atol=2e-5)
    assert metrics["importance_weight"] == pytest.approx(1.0, abs=1e-4)
    for name in ("loss", "policy_loss", "kl", "entropy", "grad_norm"):
        assert abs(metrics[name]) > 1e-3
        np.testing.assert_allclose(eight[2][name], metrics[name], rtol=2e-4)
    start = jax.device_get(alone.policy)
    assert_moved_alike(eight[3].trained(), policy.trained(), start.trained())


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("float32", 1e-4), pytest.param("bfloat16", 1e-2, marks=pytest.mark.slow)],
)
def test_the_ratio_is_one_at_the_first_of_several_updates(dtype, bound):
    """The old log-probabilities and those of the update come from two programs, in other parts."""
    config = load_config([*CONFIG, f"--config.model.dtype={dtype}"])
    context = set_up(config)
    rollout, scoring, old = sampled_and_scored(config, context)
    stage = plan_stages(config, context)[2]

    def share_outside(old):
        sampled = dataclasses.replace(rollout, log_probs=old)
        batch = Batch(sampled, jnp.ones((8, 2, 1)), old_log_probs=old)
        _, metrics = policy_update(
            placed_state(context.policy, stage, context),
            batch,
            optimizer=stage.optimizer,
            scoring=scoring,
            loss=PolicyLoss(bound, bound, 0.0, 2.0),
            packing=packed(rollout, 4),
        )
        return metrics["clip_fraction"]

    assert share_outside(old) == 0
    assert share_outside(old + 2 * bound) == pytest.approx(1)


def sft_step(config, context):
    """Return the metrics and the policy of the first step of phase 2."""
    stage = plan_stages(config, context)[1]
    written = []
    loop = Loop(
        steps=range(1),
        data=stages.batches(config, context, stage, 0),
        progress=Progress(),
        write=lambda step, metrics: written.append(metrics),
        save=lambda *arguments: None,
    )
    state = placed_state(context.policy, stage, context)
    state = sft.run_sft(config, context, stage, state, loop)
    return written[0], jax.device_get(state.policy)


@pytest.mark.slow
def test_micro_batches_of_demonstrations_on_eight_devices_train_like_one_batch_on_one():
    sizes = ["--config.sft2.batch_size=8", "--config.sft2.learning_rate=0.1", LARGE_EPSILON]
    whole = load_config([*CONFIG, *sizes, "--config.sft2.micro_batch=8"])
    parts = load_config([*CONFIG, *sizes, "--config.sft2.micro_batch=4"])
    alone = set_up(whole)
    metrics, policy = sft_step(whole, alone)
    parts_metrics, parts_policy = sft_step(parts, on_eight_devices(alone))
    assert metrics["loss"] > 1
    # Smaller parts are padded less, and take another time.
    told = ("seconds_", "tokens_per_second", "padding")
    learned = {name: value for name, value in metrics.items() if not name.startswith(told)}
    assert {name: parts_metrics[name] for name in learned} == pytest.approx(learned, rel=1e-5)
    assert parts_metrics["padding"] <= metrics["padding"]
    assert_moved_alike(parts_policy, policy, jax.device_get(alone.policy))
