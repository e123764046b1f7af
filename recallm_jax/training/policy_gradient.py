"""The policy-gradient stages: the GRPO family and PPO, from step to step of a learner's state.

A step samples groups, rewards them, and updates: one batch of `prompts_per_step` whole groups, in
`minibatches` updates, `epochs` times over.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.bad_batch import Inspected
from recallm_jax.training.batch import make_batch
from recallm_jax.training.rollouts import collect
from recallm_jax.training.stages import PPO, Loop, Stage, finite, scoring_of, training_rules
from rl.batch import Batch
from rl.learner import (
    LearnerState,
    PolicyLoss,
    policy_update,
)


def run_policy(
    config: ConfigDict,
    context: Context,
    stage: Stage,
    state: LearnerState,
    reference: Policy,
    loop: Loop,
) -> LearnerState:
    """Run a stage of the GRPO family (arXiv 2604.09494, section 4.2) or of PPO.

    Args:
      reference: the frozen policy of the KL penalty.

    Raises:
      UserError: of all that a step has sampled, no response has a reward; the state before that
        step is saved.
    """
    options = config[stage.name]
    scoring = scoring_of(config, training_rules(config, context), temperature=options.temperature)
    loss = policy_loss(config, stage)
    num_parts = options.prompts_per_step // options.minibatches // options.micro_batch
    drawn = loop.drawn
    for step in loop.steps:
        collected = collect(config, context, stage, state.policy, scoring.rules, loop.data, drawn)
        scored = collected.scored
        for problem in collected.problems:
            context.console.say(f"{stage.name} {step}: no reward for {problem}")
        if not collected.rewarded:
            loop.save(step, state, drawn, now=True)
            raise UserError(
                f"{stage.name} {step}: no response has a reward; the first: "
                f"{collected.problems[0]}. Step {step} is saved; mend the reward, then start the "
                "same command again"
            )
        if stage.name != PPO and not scored.spread.any():
            ids = processes.texts_of_all(
                [one.example_id for one in collected.records], context.mesh
            )
            context.console.say(
                f"{stage.name} {step}: rewards differ in no group; they teach nothing: {_few(ids)}"
            )
        drawn += collected.draws * stage.batch_size
        batch, metrics = make_batch(config, context, stage, state, reference, scored, scoring)
        updates = []
        for rows in _minibatches(config, stage, step):
            part = batch if rows is None else context.place(_rows(batch, rows))
            state, found = policy_update(
                state,
                part,
                optimizer=stage.optimizer,
                scoring=scoring,
                loss=loss,
                num_parts=num_parts,
            )
            updates.append(found)
        means = jax.tree.map(lambda *values: sum(values) / len(values), *updates)
        rewards = np.where(scored.known, scored.totals, np.nan)
        seen = Inspected(collected.records, scored.rollout, batch, rewards)
        loop.write(step, finite(means, stage, step, seen) | metrics | collected.metrics)
        loop.save(step + 1, state, drawn)
    return state


def policy_loss(config: ConfigDict, stage: Stage) -> PolicyLoss:
    """Return the loss that a stage's section of the config asks for."""
    options = config[stage.name]
    shared = {
        name: options[name] for name in ("clip_low", "clip_high", "importance_cap", "aggregation")
    }
    if stage.name == PPO:
        return PolicyLoss(
            kl_coefficient=0.0,
            value_coefficient=options.value_coefficient,
            value_clip=options.value_clip,
            **shared,
        )
    return PolicyLoss(
        kl_coefficient=options.kl_coefficient if options.kl_in == "loss" else 0.0,
        kl_estimator=options.kl_estimator,
        ratio=options.ratio,
        **shared,
    )


def _minibatches(config: ConfigDict, stage: Stage, step: int) -> Iterator[np.ndarray | None]:
    """Yield the prompts of each update, drawn anew in each epoch; None for all in their order."""
    options = config[stage.name]
    for epoch in range(options.epochs):
        if options.minibatches == 1:
            yield None
            continue
        place = [config.seed, stage.number, step, epoch]
        order = np.random.default_rng(place).permutation(stage.batch_size)
        yield from np.split(order, options.minibatches)


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    return jax.tree.map(lambda x: x[rows], batch)


def _few(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
