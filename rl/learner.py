"""The sharded update steps: supervised fine-tuning, the GRPO family and PPO, over whole groups.

Departures from the paper: training uses the sampler's state machine, budget and forced end, so that
there is one definition of the span mask. Micro-batches hold whole groups, so that a prompt is
computed once for all its responses.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from decoding.policy import Policy
from decoding.rollout import Rollout
from decoding.span_scores import Scoring, score_tokens
from rl.batch import Batch
from rl.critic import Critic, values
from rl.losses import (
    KL,
    Aggregation,
    Ratio,
    aggregate,
    clipped_surrogate,
    clipped_value_loss,
    loss_denominator,
    masked_sum,
    sequence_log_ratio,
    token_log_ratio,
    truncated_importance,
)

Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnerState:
    """The state that an update changes. The leaves may also be the arrays' shapes or shardings.

    Attributes:
      step: an int32 scalar.
      critic: PPO's critic; None without one.
    """

    policy: Policy
    optimizer_state: optax.OptState
    step: Any
    critic: Critic | None = None


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """The choice of a policy-gradient loss, and its coefficients; static.

    Attributes:
      ratio: the importance ratio is each token's, or GSPO's of the response.
      aggregation: the way in which the tokens' losses are combined; see `rl.losses.aggregate`.
      kl_coefficient: the weight of the KL penalty in the loss; 0 if the reward has it, or none.
      importance_cap: the cap on the importance of trainer over sampler.
      value_coefficient, value_clip: the weight and the clip of PPO's value loss.
    """

    clip_low: float
    clip_high: float
    kl_coefficient: float
    importance_cap: float
    kl_estimator: str = "k3"
    ratio: Ratio = "token"
    aggregation: Aggregation = "token"
    value_coefficient: float = 0.0
    value_clip: float = 0.0


def init_state(
    policy: Policy, optimizer: optax.GradientTransformation, critic: Critic | None = None
) -> LearnerState:
    """Return the state before the first update."""
    optimizer_state = optimizer.init(_trained(policy, critic))
    return LearnerState(policy, optimizer_state, jnp.zeros((), jnp.int32), critic)


def _trained(policy: Policy, critic: Critic | None):
    """Return the parameters to optimise: the policy's, or both by name."""
    return policy if critic is None else {"policy": policy, "critic": critic}


def _both(trained) -> tuple[Policy, Critic | None]:
    return (trained["policy"], trained["critic"]) if isinstance(trained, dict) else (trained, None)


def hidden_states(policy: Policy, rollout: Rollout) -> Float[Array, "B G T D"]:
    """Return the hidden states that predict each token of the responses."""
    prompts = rollout.prompts
    return policy.score(prompts.tokens, prompts.lengths, rollout.tokens)


def split_prompts(batch, num_parts: int) -> tuple[list, Callable]:
    """Split every array's leading (prompt) axis into [parts, prompts a part].

    Part p holds prompts p, p + num_parts, …: each part takes prompts from every device, so that
    each part is split over devices as the batch is.

    Returns:
      The arrays, and a function from one part's arrays to a batch.
    """
    leaves, structure = jax.tree.flatten(batch)
    parts = [x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1) for x in leaves]
    return parts, functools.partial(jax.tree.unflatten, structure)


@functools.partial(jax.jit, static_argnames=("scoring", "num_parts"))
def score_in_parts(
    policy: Policy, rollout: Rollout, scoring: Scoring, num_parts: int
) -> Float[Array, "B G T"]:
    """Return log-probabilities without gradient, a few prompts at a time."""
    parts, join = split_prompts(_unscored(rollout), num_parts)

    def scores(part):
        some = join(part)
        return score_tokens(policy, hidden_states(policy, some), some, scoring).log_probs

    return lax.map(scores, parts).swapaxes(0, 1).reshape(rollout.tokens.shape)


@functools.partial(jax.jit, static_argnames=("scoring", "num_parts"))
def score_and_value_in_parts(
    policy: Policy, critic: Critic, rollout: Rollout, scoring: Scoring, num_parts: int
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Return log-probabilities and values without gradient, a few prompts at a time."""
    parts, join = split_prompts(_unscored(rollout), num_parts)

    def both(part):
        some = join(part)
        hidden = hidden_states(policy, some)
        return score_tokens(policy, hidden, some, scoring).log_probs, values(critic, hidden, some)

    scored = lax.map(both, parts)
    return tuple(x.swapaxes(0, 1).reshape(rollout.tokens.shape) for x in scored)


def _unscored(rollout: Rollout) -> Rollout:
    """Return the rollout without the sampler's log-probabilities, to save their memory."""
    return dataclasses.replace(rollout, log_probs=None)


def _sft_loss(policy: Policy, rollout: Rollout, num_tokens, scoring: Scoring):
    scores = score_tokens(policy, hidden_states(policy, rollout), rollout, scoring)
    loss = -masked_sum(scores.log_probs, rollout.mask) / num_tokens
    return loss, {"loss": loss, "entropy": masked_sum(scores.entropy, rollout.mask) / num_tokens}


def _policy_loss(trained, batch: Batch, denominators, scoring: Scoring, loss: PolicyLoss):
    policy, critic = _both(trained)
    rollout, mask = batch.rollout, batch.rollout.mask
    hidden = hidden_states(policy, rollout)
    scores = score_tokens(policy, hidden, rollout, scoring)
    # Log-probabilities outside the mask are meaningless and may be infinite. Their gradients must
    # be finite.
    new = jnp.where(mask, scores.log_probs, 0.0)
    if batch.old_log_probs is None:
        old = lax.stop_gradient(new)
    else:
        old = jnp.where(mask, batch.old_log_probs, 0.0)
    # A policy learns from sampled responses, which have log-probabilities.
    sampler = jnp.where(mask, cast(Array, rollout.log_probs), 0.0)
    if loss.ratio == "sequence":
        log_ratio = sequence_log_ratio(new, old, mask)
    else:
        log_ratio = token_log_ratio(new, old)
    surrogate = clipped_surrogate(
        log_ratio, batch.advantages, clip_low=loss.clip_low, clip_high=loss.clip_high
    )
    weights = truncated_importance(old, sampler, cap=loss.importance_cap)
    ratio = jnp.exp(log_ratio)
    outside = (ratio < 1 - loss.clip_low) | (ratio > 1 + loss.clip_high)
    denominator, num_tokens = denominators

    def total_of(values):
        return aggregate(values, mask, denominator, loss.aggregation)

    def mean(values):
        return masked_sum(values, mask) / num_tokens

    policy_loss = total_of(weights * surrogate)
    total = policy_loss
    metrics = {
        "policy_loss": policy_loss,
        "entropy": mean(scores.entropy),
        "clip_fraction": mean(outside.astype(jnp.float32)),
        "importance_weight": mean(weights),
        "sampler_log_prob_error": mean(jnp.abs(old - sampler)),
    }
    if batch.reference_log_probs is not None:
        kl = KL[loss.kl_estimator](new, jnp.where(mask, batch.reference_log_probs, 0.0))
        total += loss.kl_coefficient * total_of(kl)
        metrics["kl"] = mean(kl)
    if critic is not None:
        found = values(critic, hidden, rollout)
        # A batch for a critic has both.
        targets = cast(tuple[Array, Array], (batch.old_values, batch.returns))
        old_values, returns = (jnp.where(mask, x, 0.0) for x in targets)
        value_loss = mean(clipped_value_loss(found, old_values, returns, clip=loss.value_clip))
        total += loss.value_coefficient * value_loss
        metrics |= {"value_loss": value_loss, "value": mean(found), "return": mean(returns)}
    return total, {"loss": total, **metrics}


def _accumulate(loss_fn: Callable, trained, parts) -> tuple[Any, Metrics]:
    """Sum gradients and metrics over micro-batches; the losses share one denominator."""
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    first = [x[0] for x in parts]
    if parts[0].shape[0] == 1:
        return gradient_fn(trained, first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient_fn(trained, part)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient_fn, trained, first)
    )
    return lax.scan(add, zeros, parts)[0]


def _apply(
    state: LearnerState, gradient: Any, optimizer: optax.GradientTransformation
) -> LearnerState:
    trained = _trained(state.policy, state.critic)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, trained)
    policy, critic = _both(optax.apply_updates(trained, updates))
    return LearnerState(policy, optimizer_state, state.step + 1, critic)


@functools.partial(jax.jit, static_argnames=("optimizer", "scoring", "num_parts"), donate_argnums=0)
def sft_update(
    state: LearnerState,
    rollout: Rollout,
    *,
    optimizer: optax.GradientTransformation,
    scoring: Scoring,
    num_parts: int,
) -> tuple[LearnerState, Metrics]:
    """Take one step of supervised fine-tuning on demonstrations, under the span mask.

    Loss: the mean over completion tokens of -log pi (arXiv 2604.09494, section 4.1).

    Args:
      rollout: demonstrations, G = 1; empty ones have no weight.
      num_parts: the number of micro-batches; divides the number of prompts.
    """
    num_tokens = jnp.maximum(rollout.mask.sum(), 1)
    parts, join = split_prompts(rollout, num_parts)

    def loss(policy, part):
        return _sft_loss(policy, join(part), num_tokens, scoring)

    # The norm of the whole gradient is not reported: if only rows train, it is never computed.
    gradient, metrics = _accumulate(loss, state.policy, parts)
    return _apply(state, gradient, optimizer), metrics


@functools.partial(
    jax.jit, static_argnames=("optimizer", "scoring", "loss", "num_parts"), donate_argnums=0
)
def policy_update(
    state: LearnerState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    scoring: Scoring,
    loss: PolicyLoss,
    num_parts: int,
) -> tuple[LearnerState, Metrics]:
    """Take one policy-gradient step on a batch of whole groups.

    Loss: the clipped surrogate, weighted by the truncated importance of trainer over sampler, plus
    the KL penalty (arXiv 2604.09494, section 4.2); with a critic its value loss too.

    Args:
      num_parts: the number of micro-batches of whole groups; divides the number of prompts.
    """
    mask = batch.rollout.mask
    denominator = loss_denominator(mask, loss.aggregation, max_tokens=scoring.budget)
    denominators = denominator, jnp.maximum(mask.sum(), 1)
    parts, join = split_prompts(batch, num_parts)

    def loss_fn(trained, part):
        return _policy_loss(trained, join(part), denominators, scoring, loss)

    gradient, metrics = _accumulate(loss_fn, _trained(state.policy, state.critic), parts)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    return _apply(state, gradient, optimizer), metrics
