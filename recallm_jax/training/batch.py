"""The batch of an update of the GRPO family or of PPO: a scored rollout with its advantages."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.rollout import Rollout
from recallm_jax.runtime import processes
from recallm_jax.training.policy_stage import PolicyStage
from rl.advantages import OF_GROUPS, generalized, token_rewards, whiten
from rl.batch import Batch, ScoredRollout
from rl.learner import LearnerState, Metrics, score_and_value_in_parts, score_in_parts
from rl.losses import kl_k1
from rl.packing import Packing


def make_batch(
    run: PolicyStage, state: LearnerState, reference: Policy, scored: ScoredRollout
) -> tuple[Batch, Metrics]:
    """Return the batch of a step, and metrics of the KL penalty if the reward includes it."""
    totals, known = run.context.place((scored.totals, scored.known))
    scored = dataclasses.replace(scored, totals=totals, known=known)
    packing = run.pack(processes.fetch(scored.rollout.lengths))
    return batch_of(run, state, reference, scored, packing)


def batch_of(
    run: PolicyStage,
    state: LearnerState,
    reference: Policy,
    scored: ScoredRollout,
    packing: Packing,
) -> tuple[Batch, Metrics]:
    """Return the same as `make_batch`, from rewards that are already on the devices."""
    parts: dict[str, Any] = {"scoring": run.scoring, "packing": packing}
    of_reference = None
    if run.options.kl_coefficient:
        of_reference = score_in_parts(reference, scored.rollout, **parts)
    if state.critic is not None:
        old, values = score_and_value_in_parts(state.policy, state.critic, scored.rollout, **parts)
        of_reference = old if of_reference is None else of_reference
        return ppo_batch(run.options, scored, OldScores(old, of_reference, values))
    if run.updates_once:
        # The old policy is the current one.
        return group_batch(run.options, scored, None, of_reference)
    old = score_in_parts(state.policy, scored.rollout, **parts)
    return group_batch(run.options, scored, old, of_reference)


def group_batch(
    options: ConfigDict,
    scored: ScoredRollout,
    old: Float[Array, "B G T"] | None,
    reference: Float[Array, "B G T"] | None,
) -> tuple[Batch, Metrics]:
    """Return the batch of a group-relative update: an advantage for each response."""
    totals, metrics = scored.totals, {}
    if options.kl_in == "reward" and reference is not None:
        penalty = _sequence_kl(scored.rollout, reference)
        totals = totals - options.kl_coefficient * penalty
        metrics["kl_penalty"] = penalty.mean()
        reference = None
    batch = Batch(
        rollout=scored.rollout,
        advantages=OF_GROUPS[options.advantage](totals, scored.known)[..., None],
        old_log_probs=old,
        reference_log_probs=reference,
    )
    return batch, metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OldScores:
    """The scores of each token before PPO's first update on a batch.

    Attributes:
      log_probs: log-probabilities by the policy.
      reference_log_probs: those by the reference, or by the policy if there is no KL penalty.
      values: the critic's values of the states before the tokens.
    """

    log_probs: Float[Array, "B G T"]
    reference_log_probs: Float[Array, "B G T"]
    values: Float[Array, "B G T"]


def ppo_batch(options: ConfigDict, scored: ScoredRollout, old: OldScores) -> tuple[Batch, Metrics]:
    """Return the batch of a PPO update: an advantage and a return for each token."""
    advantages, returns, kl = _ppo_targets(
        scored,
        old,
        kl_coefficient=options.kl_coefficient,
        discount=options.discount,
        trace_decay=options.trace_decay,
    )
    batch = Batch(
        rollout=scored.rollout,
        advantages=advantages,
        old_log_probs=old.log_probs,
        old_values=old.values,
        returns=returns,
    )
    return batch, {"kl_penalty": kl}


@jax.jit
def _sequence_kl(
    rollout: Rollout, reference_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G"]:
    """Return k1 of the sampler against the reference, summed over each response."""
    # The responses were sampled, so they have log-probabilities.
    kl = kl_k1(cast(Array, rollout.log_probs), reference_log_probs)
    return jnp.where(rollout.mask, kl, 0.0).sum(axis=-1)


@functools.partial(jax.jit, static_argnames=("kl_coefficient", "discount", "trace_decay"))
def _ppo_targets(
    scored: ScoredRollout,
    old: OldScores,
    *,
    kl_coefficient: float,
    discount: float,
    trace_decay: float,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"], Float[Array, ""]]:
    """Return whitened advantages and returns of the tokens, and the mean KL of a response."""
    rollout, mask = scored.rollout, scored.rollout.mask
    kl = jnp.where(mask, kl_k1(old.log_probs, old.reference_log_probs), 0.0)
    rewards = token_rewards(scored.totals, kl, rollout.lengths, coefficient=kl_coefficient)
    advantages = generalized(rewards, old.values, mask, discount=discount, trace_decay=trace_decay)
    returns = jnp.where(mask, advantages + old.values, 0.0)
    return whiten(advantages, mask), returns, kl.sum(axis=-1).mean()
