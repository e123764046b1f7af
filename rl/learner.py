"""The sharded update steps: supervised fine-tuning and GRPO, over whole groups.

Departures from the paper: the span mask's state machine, budget and forced end are the sampler's
own in training too (METHOD: one definition); micro-batches hold whole prompts, so that a group's
prompt is computed once for all its responses.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from decoding.policy import Policy
from decoding.span_copy import SpanRules, trace, whole_source
from decoding.span_scores import TokenScores, log_probs
from rl.batch import Batch, Responses
from rl.losses import clipped_surrogate, kl_k3, masked_sum, truncated_importance

Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnerState:
    """What an update changes; or, leaf for leaf, shapes or shardings of it."""

    policy: Policy
    optimizer_state: optax.OptState
    # An int32 scalar.
    step: Any


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How responses are scored under the span mask; the sampler's own settings, static.

    Attributes:
      budget: tokens that a response may hold.
      temperature: that of the sampler.
      chunk: positions of a row whose logits are unfolded at a time.
    """

    rules: SpanRules
    budget: int
    temperature: float
    chunk: int


@dataclasses.dataclass(frozen=True)
class GrpoLoss:
    """Coefficients of the GRPO loss; static."""

    clip_low: float
    clip_high: float
    kl_coefficient: float
    importance_cap: float


def init_state(policy: Policy, optimizer: optax.GradientTransformation) -> LearnerState:
    """Return the state before the first update."""
    return LearnerState(policy, optimizer.init(policy), jnp.zeros((), jnp.int32))


def token_mask(responses: Responses) -> Bool[Array, "B G T"]:
    """Return which positions hold a token of the response, its stop token included."""
    return jnp.arange(responses.tokens.shape[-1])[None, None] < responses.lengths[..., None]


def score_responses(policy: Policy, responses: Responses, scoring: Scoring) -> TokenScores:
    """Return log-probabilities and entropies of the responses' tokens under the span mask."""
    prompts = responses.prompts
    source = whole_source(prompts, responses.index, responses.tokens, scoring.rules)
    states = trace(responses.tokens, source, scoring.rules, scoring.budget)
    hidden = policy.score(prompts.tokens, prompts.lengths, responses.tokens)
    return log_probs(
        policy,
        hidden,
        responses.tokens,
        responses.lengths,
        states,
        source,
        scoring.rules,
        temperature=scoring.temperature,
        chunk=scoring.chunk,
    )


def split_prompts(batch, num_parts: int):
    """Split every array's leading (prompt) axis into [parts, prompts a part].

    Part p holds prompts p, p + num_parts, …: every device's prompts are spread over all parts, so
    that a batch that is split over devices stays so in each part.

    Returns:
      The arrays, and a function from those of one part to a batch of it.
    """
    leaves, structure = jax.tree.flatten(batch)
    parts = [x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1) for x in leaves]
    return parts, functools.partial(jax.tree.unflatten, structure)


@functools.partial(jax.jit, static_argnames=("scoring", "num_parts"))
def score_in_parts(
    policy: Policy, responses: Responses, scoring: Scoring, num_parts: int
) -> Float[Array, "B G T"]:
    """Return log-probabilities without gradient, a few prompts at a time."""
    parts, join = split_prompts(responses, num_parts)
    scores = lax.map(lambda part: score_responses(policy, join(part), scoring).log_probs, parts)
    return scores.swapaxes(0, 1).reshape(responses.tokens.shape)


def _sft_loss(policy: Policy, responses: Responses, num_tokens, scoring: Scoring):
    scores = score_responses(policy, responses, scoring)
    mask = token_mask(responses)
    loss = -masked_sum(scores.log_probs, mask) / num_tokens
    return loss, {"loss": loss, "entropy": masked_sum(scores.entropy, mask) / num_tokens}


def _grpo_loss(policy: Policy, batch: Batch, num_tokens, scoring: Scoring, loss: GrpoLoss):
    scores = score_responses(policy, batch.responses, scoring)
    mask = token_mask(batch.responses)
    # Outside the mask the values mean nothing and may be infinite; their gradients must not be.
    new = jnp.where(mask, scores.log_probs, 0.0)
    old, reference = (
        lax.stop_gradient(new) if x is None else jnp.where(mask, x, 0.0)
        for x in (batch.old_log_probs, batch.reference_log_probs)
    )
    sampler = jnp.where(mask, batch.sampler_log_probs, 0.0)
    surrogate = clipped_surrogate(
        new, old, batch.advantages, clip_low=loss.clip_low, clip_high=loss.clip_high
    )
    weights = truncated_importance(old, sampler, cap=loss.importance_cap)
    kl = kl_k3(new, reference)
    ratio = jnp.exp(new - old)
    outside = (ratio < 1 - loss.clip_low) | (ratio > 1 + loss.clip_high)

    def mean(values):
        return masked_sum(values, mask) / num_tokens

    policy_loss = mean(weights * surrogate)
    total = policy_loss + loss.kl_coefficient * mean(kl)
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "kl": mean(kl),
        "entropy": mean(scores.entropy),
        "clip_fraction": mean(outside.astype(jnp.float32)),
        "importance_weight": mean(weights),
        "sampler_log_prob_error": mean(jnp.abs(old - sampler)),
    }


def _accumulate(loss_fn: Callable, policy: Policy, parts) -> tuple[Policy, Metrics]:
    """Sum gradients and metrics over micro-batches; the losses share one denominator."""
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    first = [x[0] for x in parts]
    if parts[0].shape[0] == 1:
        return gradient_fn(policy, first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient_fn(policy, part)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient_fn, policy, first)
    )
    return lax.scan(add, zeros, parts)[0]


def _apply(
    state: LearnerState, gradient: Policy, optimizer: optax.GradientTransformation
) -> LearnerState:
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.policy)
    policy = optax.apply_updates(state.policy, updates)
    return LearnerState(policy, optimizer_state, state.step + 1)


@functools.partial(jax.jit, static_argnames=("optimizer", "scoring", "num_parts"), donate_argnums=0)
def sft_update(
    state: LearnerState,
    responses: Responses,
    *,
    optimizer: optax.GradientTransformation,
    scoring: Scoring,
    num_parts: int,
) -> tuple[LearnerState, Metrics]:
    """Take one step of supervised fine-tuning on demonstrations, under the span mask.

    Loss: the mean over completion tokens of -log pi (arXiv 2604.09494, section 4.1).

    Args:
      responses: demonstrations, G = 1; empty ones weigh nothing.
      num_parts: micro-batches; divides the number of prompts.
    """
    num_tokens = jnp.maximum(token_mask(responses).sum(), 1)

    parts, join = split_prompts(responses, num_parts)

    def loss(policy, part):
        return _sft_loss(policy, join(part), num_tokens, scoring)

    # No norm of the whole gradient is reported: where only rows train, the rest is never computed.
    gradient, metrics = _accumulate(loss, state.policy, parts)
    return _apply(state, gradient, optimizer), metrics


@functools.partial(
    jax.jit, static_argnames=("optimizer", "scoring", "loss", "num_parts"), donate_argnums=0
)
def grpo_update(
    state: LearnerState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    scoring: Scoring,
    loss: GrpoLoss,
    num_parts: int,
) -> tuple[LearnerState, Metrics]:
    """Take one GRPO step on a batch of whole groups.

    Loss: token mean over the batch of the clipped surrogate, weighted by the truncated importance
    of trainer over sampler, plus the KL penalty (arXiv 2604.09494, section 4.2).

    Args:
      num_parts: micro-batches of whole prompts; divides the number of prompts.
    """
    num_tokens = token_mask(batch.responses).sum()

    parts, join = split_prompts(batch, num_parts)

    def loss_fn(policy, part):
        return _grpo_loss(policy, join(part), num_tokens, scoring, loss)

    gradient, metrics = _accumulate(loss_fn, state.policy, parts)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    return _apply(state, gradient, optimizer), metrics
