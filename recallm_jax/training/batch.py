"""What an update of GRPO's family or of PPO adds to a rollout: advantages and the like."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.rollout import Rollout
from decoding.span_scores import Scoring
from recallm_jax.policy.context import Context
from recallm_jax.training.stages import Stage
from rl.advantages import OF_GROUPS, generalized, token_rewards, whiten
from rl.batch import Batch, ScoredRollout
from rl.learner import LearnerState, score_and_value_in_parts, score_in_parts
from rl.losses import kl_k1


def make_batch(
    config: ConfigDict,
    context: Context,
    stage: Stage,
    state: LearnerState,
    reference: Policy,
    scored: ScoredRollout,
    scoring: Scoring,
) -> tuple[Batch, dict[str, float]]:
    """Return the batch of an update, with log-probabilities, advantages and values."""
    options, rollout = config[stage.name], scored.rollout
    parts = {"scoring": scoring, "num_parts": options.prompts_per_step // options.micro_batch}
    totals, known = context.place((scored.totals, scored.known))
    reference_log_probs = None
    if options.kl_coefficient:
        reference_log_probs = score_in_parts(reference, rollout, **parts)
    if state.critic is not None:
        old, values = score_and_value_in_parts(state.policy, state.critic, rollout, **parts)
        return ppo_batch(options, rollout, totals, old, values, reference_log_probs)
    old = None
    # At the only update of a batch the old policy is the one at hand.
    if options.minibatches * options.epochs > 1:
        old = score_in_parts(state.policy, rollout, **parts)
    return group_batch(options, rollout, totals, known, old, reference_log_probs)


def group_batch(
    options: ConfigDict,
    rollout: Rollout,
    totals: Float[Array, "B G"],
    known: Bool[Array, "B G"],
    old: Float[Array, "B G T"] | None,
    reference: Float[Array, "B G T"] | None,
) -> tuple[Batch, dict[str, float]]:
    """Return the batch of a group-relative update: an advantage for each response."""
    metrics = {}
    if options.kl_in == "reward" and reference is not None:
        penalty = _sequence_kl(rollout, reference)
        totals = totals - options.kl_coefficient * penalty
        metrics["kl_penalty"] = float(penalty.mean())
        reference = None
    batch = Batch(
        rollout=rollout,
        advantages=OF_GROUPS[options.advantage](totals, known)[..., None],
        old_log_probs=old,
        reference_log_probs=reference,
    )
    return batch, metrics


def ppo_batch(
    options: ConfigDict,
    rollout: Rollout,
    totals: Float[Array, "B G"],
    old: Float[Array, "B G T"],
    values: Float[Array, "B G T"],
    reference: Float[Array, "B G T"] | None,
) -> tuple[Batch, dict[str, float]]:
    """Return the batch of a PPO update: an advantage and a return for each token."""
    advantages, returns, kl = _ppo_targets(
        totals,
        old,
        old if reference is None else reference,
        values,
        rollout,
        coefficient=options.kl_coefficient,
        discount=options.discount,
        trace_decay=options.trace_decay,
    )
    batch = Batch(
        rollout=rollout,
        advantages=advantages,
        old_log_probs=old,
        reference_log_probs=None,
        old_values=values,
        returns=returns,
    )
    return batch, {"kl_penalty": float(kl)}


@jax.jit
def _sequence_kl(
    rollout: Rollout, reference_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G"]:
    """Return k1 of the sampler against the reference, summed over each response."""
    # The responses were sampled, so they have log-probabilities.
    kl = kl_k1(cast(Array, rollout.log_probs), reference_log_probs)
    return jnp.where(rollout.mask, kl, 0.0).sum(axis=-1)


@functools.partial(jax.jit, static_argnames=("coefficient", "discount", "trace_decay"))
def _ppo_targets(
    totals: Float[Array, "B G"],
    old: Float[Array, "B G T"],
    reference: Float[Array, "B G T"],
    values: Float[Array, "B G T"],
    rollout: Rollout,
    *,
    coefficient: float,
    discount: float,
    trace_decay: float,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"], Float[Array, ""]]:
    """Return whitened advantages and returns of the tokens, and the mean KL of a response."""
    mask = rollout.mask
    kl = jnp.where(mask, kl_k1(old, reference), 0.0)
    rewards = token_rewards(totals, kl, rollout.lengths, coefficient=coefficient)
    advantages = generalized(rewards, values, mask, discount=discount, trace_decay=trace_decay)
    returns = jnp.where(mask, advantages + values, 0.0)
    return whiten(advantages, mask), returns, kl.sum(axis=-1).mean()
