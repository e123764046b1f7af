"""The sharded update steps: supervised fine-tuning, the GRPO family and PPO, over whole groups.

Departures from the paper: training uses the sampler's state machine, budget and forced end, so that
there is one definition of the span mask. Micro-batches hold whole groups, so that a prompt is
computed once for all its responses.

An update is a few programs: one for each size of rows that occurs in the batch (`rl/packing.py`)
adds gradients of micro-batches, and one applies their sum. Losses see responses, [B, G, T]; only
hidden states and logits are in rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from decoding.packing import Layout, Slots
from decoding.policy import Policy
from decoding.rollout import Rollout
from decoding.span_scores import Scoring, hidden_states, score_tokens
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
from rl.micro_batches import Parts, Shardings, in_order, lying, parts_of, shardings_of
from rl.optimizer import vocabulary_matrices, with_matrices
from rl.packing import Packing

Metrics = dict[str, Float[Array, ""]]
Models = tuple[Policy, Critic | None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnerState:
    """The state that an update changes. The leaves may also be the arrays' shapes or shardings.

    Attributes:
      policy: the policy; in a changed part (`changed_part`) its trained parameters.
      step: an int32 scalar.
      critic: PPO's critic; None without one.
    """

    policy: Any
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
    state = LearnerState(policy, None, jnp.zeros((), jnp.int32), critic)
    return dataclasses.replace(state, optimizer_state=optimizer.init(trained_of(state)))


def changed_part(state: LearnerState) -> LearnerState:
    """Return the state without the arrays that no update changes, those of a frozen model."""
    critic = None if state.critic is None else state.critic.trained()
    return dataclasses.replace(state, policy=state.policy.trained(), critic=critic)


def with_changed(state: LearnerState, changed: LearnerState) -> LearnerState:
    """Return a state with another changed part, and the frozen arrays of `state`."""
    policy = state.policy.with_trained(changed.policy)
    critic = changed.critic
    if state.critic is not None and critic is not None:
        critic = state.critic.with_trained(critic)
    return dataclasses.replace(changed, policy=policy, critic=critic)


def trained_of(state: LearnerState) -> Any:
    """Return the parameters to optimise: the policy's, or policy and critic by name."""
    changed = changed_part(state)
    return _trained(changed.policy, changed.critic)


def _trained(policy: Any, critic: Critic | None) -> Any:
    return policy if critic is None else {"policy": policy, "critic": critic}


def _joined(models: Models, trained: Any) -> Models:
    policy, critic = models
    if critic is None:
        return policy.with_trained(trained), None
    return policy.with_trained(trained["policy"]), critic.with_trained(trained["critic"])


def score_in_parts(
    policy: Policy, rollout: Rollout, *, scoring: Scoring, packing: Packing
) -> Float[Array, "B G T"]:
    """Return log-probabilities without gradient, a micro-batch of prompts at a time."""
    return _scored(policy, None, rollout, scoring, packing)[0]


def score_and_value_in_parts(
    policy: Policy, critic: Critic, rollout: Rollout, *, scoring: Scoring, packing: Packing
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Return log-probabilities and values without gradient, a micro-batch of prompts at a time."""
    log_probs, found = _scored(policy, critic, rollout, scoring, packing)
    return log_probs, found


def _scored(
    policy: Policy, critic: Critic | None, rollout: Rollout, scoring: Scoring, packing: Packing
) -> tuple[Array, ...]:
    # The sampler's log-probabilities are not read.
    rollout = dataclasses.replace(rollout, log_probs=None)
    some, slots = in_order((rollout, packing.slots), packing.order)
    found = None
    if packing.num_parts > 1:
        zeros = jnp.zeros_like(some.tokens, jnp.float32)
        found = (zeros,) if critic is None else (zeros, jnp.copy(zeros))
    for parts in parts_of(packing, slots):
        found = score_parts(policy, critic, some, parts, found, scoring=scoring)
    return in_order(found, np.argsort(packing.order))


@functools.partial(jax.jit, static_argnames="scoring", donate_argnames="found")
def score_parts(
    policy: Policy,
    critic: Critic | None,
    rollout: Rollout,
    parts: Parts,
    found: tuple[Array, ...] | None,
    *,
    scoring: Scoring,
) -> tuple[Array, ...]:
    """Add the log-probabilities of some micro-batches to those of others, and values with a critic.

    Args:
      rollout: the whole batch, in the order of its packing.
      found: [B, G, T] each; None if the batch is one micro-batch.
    """

    def both(number):
        some, slots = parts.split(rollout, number)
        layout = parts.lay_out(some, slots)
        hidden = hidden_states(policy, some, layout)
        log_probs = score_tokens(policy, hidden, some, scoring, layout).log_probs
        if critic is None:
            return (log_probs,)
        return log_probs, values(critic, hidden, some, layout)

    if found is None:
        return both(0)

    def add(number, found):
        def one(every, some):
            beside = every.reshape(-1, parts.num_parts, *every.shape[1:])
            return beside.at[:, number].set(some).reshape(every.shape)

        return jax.tree.map(one, found, both(number))

    return lax.fori_loop(parts.first, parts.last, add, found)


def _sft_loss(policy: Policy, rollout: Rollout, layout: Layout, num_tokens, scoring: Scoring):
    hidden = hidden_states(policy, rollout, layout)
    scores = score_tokens(policy, hidden, rollout, scoring, layout)
    loss = -masked_sum(scores.log_probs, rollout.mask) / num_tokens
    return loss, {"loss": loss, "entropy": masked_sum(scores.entropy, rollout.mask) / num_tokens}


def _policy_loss(
    models: Models, batch: Batch, layout: Layout, denominators, scoring: Scoring, loss: PolicyLoss
):
    policy, critic = models
    rollout, mask = batch.rollout, batch.rollout.mask
    hidden = hidden_states(policy, rollout, layout)
    scores = score_tokens(policy, hidden, rollout, scoring, layout)
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
        found = values(critic, hidden, rollout, layout)
        # A batch for a critic has both.
        targets = cast(tuple[Array, Array], (batch.old_values, batch.returns))
        old_values, returns = (jnp.where(mask, x, 0.0) for x in targets)
        value_loss = mean(clipped_value_loss(found, old_values, returns, clip=loss.value_clip))
        total += loss.value_coefficient * value_loss
        metrics |= {"value_loss": value_loss, "value": mean(found), "return": mean(returns)}
    return total, {"loss": total, **metrics}


def _summed(
    loss_fn: Callable, trained, parts: Parts, total, shardings: Shardings
) -> tuple[Any, Metrics]:
    """Add gradients of micro-batches to `total`, and sum their metrics.

    Args:
      loss_fn: a loss of the trained parameters and of the number of a micro-batch, with metrics.
        All losses share one denominator.
      total: None if the batch is one micro-batch.
      shardings: the layout of the trained parameters, for their gradients.
    """

    def gradient_fn(trained, number):
        gradient, metrics = jax.grad(loss_fn, has_aux=True)(trained, number)
        return lying(gradient, shardings), metrics

    if total is None:
        return gradient_fn(trained, 0)

    def add(number, sums):
        return jax.tree.map(jnp.add, sums, gradient_fn(trained, number))

    _, metrics = jax.eval_shape(loss_fn, trained, parts.first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    return lax.fori_loop(parts.first, parts.last, add, (total, zeros))


def _of_runs(add: Callable, trained, slots: Slots, packing: Packing) -> tuple[Any, Metrics]:
    """Return the gradient and the metrics of a batch, by one call of `add` for each size."""
    total = None if packing.num_parts == 1 else jax.tree.map(jnp.zeros_like, trained)
    shardings, found = shardings_of(trained), []
    for parts in parts_of(packing, slots):
        total, metrics = add(parts=parts, total=total, shardings=shardings)
        found.append(metrics)
    return total, jax.tree.map(lambda *values: sum(values[1:], values[0]), *found)


@functools.partial(
    jax.jit, static_argnames=("optimizer", "shardings", "matrices_only"), donate_argnames="changed"
)
def apply_gradient(
    changed: LearnerState,
    gradient: Any,
    *,
    optimizer: optax.GradientTransformation,
    shardings: Shardings,
    matrices_only: bool = False,
) -> tuple[LearnerState, Float[Array, ""]]:
    """Return the state after a step along a gradient, and the gradient's norm.

    Args:
      changed: the part of a state that updates change, see `changed_part`; donated.
      gradient: of the trained parameters, or of the vocabulary's matrices only.
      shardings: the layout of `changed`, and of the state after it.
    """
    trained = _trained(changed.policy, changed.critic)
    norm = optax.tree.norm(gradient)
    if matrices_only:
        gradient = with_matrices(jax.tree.map(jnp.zeros_like, trained), gradient)
    updates, optimizer_state = optimizer.update(gradient, changed.optimizer_state, trained)
    trained = optax.apply_updates(trained, updates)
    policy, critic = trained, None
    if changed.critic is not None:
        policy, critic = trained["policy"], trained["critic"]
    after = LearnerState(policy, optimizer_state, changed.step + 1, critic)
    return lying(after, shardings), norm


def _applied(state: LearnerState, gradient: Any, **options: Any) -> tuple[LearnerState, Array]:
    changed = changed_part(state)
    changed, norm = apply_gradient(changed, gradient, shardings=shardings_of(changed), **options)
    return with_changed(state, changed), norm


def sft_update(
    state: LearnerState,
    rollout: Rollout,
    *,
    optimizer: optax.GradientTransformation,
    scoring: Scoring,
    packing: Packing,
    matrices_only: bool = False,
) -> tuple[LearnerState, Metrics]:
    """Take one step of supervised fine-tuning on demonstrations, under the span mask.

    Loss: the mean over completion tokens of -log pi (arXiv 2604.09494, section 4.1).

    Args:
      state: its changed part is donated.
      rollout: demonstrations, G = 1; empty ones have no weight.
      packing: the micro-batches.
      matrices_only: whether the optimiser reads the gradient of the vocabulary's matrices only
        (`train_rows_only`), so that no other gradient is computed.
    """
    rollout, slots = in_order((rollout, packing.slots), packing.order)
    trained = trained_of(state)
    if matrices_only:
        trained = vocabulary_matrices(trained)
    add = functools.partial(sft_gradient, trained, state.policy, rollout, scoring=scoring)
    gradient, metrics = _of_runs(add, trained, slots, packing)
    state, _ = _applied(state, gradient, optimizer=optimizer, matrices_only=matrices_only)
    return state, metrics


@functools.partial(jax.jit, static_argnames=("scoring", "shardings"), donate_argnames="total")
def sft_gradient(
    trained: Any,
    policy: Policy,
    rollout: Rollout,
    parts: Parts,
    total: Any,
    *,
    scoring: Scoring,
    shardings: Shardings,
) -> tuple[Any, Metrics]:
    """Add the gradients of some micro-batches of demonstrations to `total`.

    Args:
      trained: the trained parameters of the policy, or those of its vocabulary only.
      rollout: the whole batch, in the order of its packing.
      total: the gradient of other micro-batches; None if the batch is one micro-batch.
      shardings: the layout of the trained parameters, for their gradients.

    Returns:
      The sum, and the metrics of these micro-batches.
    """
    num_tokens = jnp.maximum(rollout.mask.sum(), 1)

    def loss_fn(trained, number):
        some, slots = parts.split(rollout, number)
        every = with_matrices(policy.trained(), trained) if isinstance(trained, dict) else trained
        changed = policy.with_trained(every)
        return _sft_loss(changed, some, parts.lay_out(some, slots), num_tokens, scoring)

    return _summed(loss_fn, trained, parts, total, shardings)


def policy_update(
    state: LearnerState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    scoring: Scoring,
    loss: PolicyLoss,
    packing: Packing,
) -> tuple[LearnerState, Metrics]:
    """Take one policy-gradient step on a batch of whole groups.

    Loss: the clipped surrogate, weighted by the truncated importance of trainer over sampler, plus
    the KL penalty (arXiv 2604.09494, section 4.2); with a critic its value loss too.

    Args:
      state: its changed part is donated.
      packing: the micro-batches of whole groups.
    """
    batch, slots = in_order((batch, packing.slots), packing.order)
    trained = trained_of(state)
    models = state.policy, state.critic
    add = functools.partial(policy_gradient, trained, models, batch, scoring=scoring, loss=loss)
    gradient, metrics = _of_runs(add, trained, slots, packing)
    state, metrics["grad_norm"] = _applied(state, gradient, optimizer=optimizer)
    return state, metrics


@functools.partial(
    jax.jit, static_argnames=("scoring", "loss", "shardings"), donate_argnames="total"
)
def policy_gradient(
    trained: Any,
    models: Models,
    batch: Batch,
    parts: Parts,
    total: Any,
    *,
    scoring: Scoring,
    loss: PolicyLoss,
    shardings: Shardings,
) -> tuple[Any, Metrics]:
    """Add the policy gradients of some micro-batches to `total`.

    Args:
      trained: the trained parameters of the policy, or of policy and critic by name.
      models: policy and critic, from which frozen parameters are taken.
      batch: the whole batch, in the order of its packing.
      total: the gradient of other micro-batches; None if the batch is one micro-batch.
      shardings: the layout of the trained parameters, for their gradients.

    Returns:
      The sum, and the metrics of these micro-batches.
    """
    mask = batch.rollout.mask
    denominator = loss_denominator(mask, loss.aggregation, max_tokens=scoring.budget)
    denominators = denominator, jnp.maximum(mask.sum(), 1)

    def loss_fn(trained, number):
        some, slots = parts.split(batch, number)
        layout = parts.lay_out(some.rollout, slots)
        return _policy_loss(_joined(models, trained), some, layout, denominators, scoring, loss)

    return _summed(loss_fn, trained, parts, total, shardings)
