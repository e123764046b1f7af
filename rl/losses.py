"""Policy-gradient losses over tokens: pure functions over arrays.

They take log-probabilities [B, G, T], in nats and under the span mask, and a mask of the tokens of
responses.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Num

Aggregation = Literal["token", "sequence", "constant"]
Ratio = Literal["token", "sequence"]


def token_log_ratio(
    log_probs: Float[Array, "B G T"], old_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G T"]:
    """Return log rho_t = log pi - log pi_old of every token (PPO, arXiv 1707.06347, section 3)."""
    return log_probs - old_log_probs


def sequence_log_ratio(
    log_probs: Float[Array, "B G T"],
    old_log_probs: Float[Array, "B G T"],
    mask: Bool[Array, "B G T"],
) -> Float[Array, "B G T"]:
    """Return GSPO's log s for each token: the mean of log pi - log pi_old over its response.

    Source: GSPO (arXiv 2507.18071), equation 7.
    """
    difference = jnp.where(mask, log_probs - old_log_probs, 0.0)
    length = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return jnp.broadcast_to(difference.sum(axis=-1, keepdims=True) / length, mask.shape)


def clipped_surrogate(
    log_ratio: Float[Array, "B G T"],
    advantages: Float[Array, "B G #T"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Array, "B G T"]:
    """PPO's loss per token: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

    The loss is minimised.

    Args:
      advantages: one for each token, or one for all tokens of a response.

    Source: PPO (arXiv 1707.06347), equation 7; separate bounds from DAPO (arXiv 2503.14476).
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    return -jnp.minimum(ratio * advantages, clipped * advantages)


def clipped_value_loss(
    v_t: Float[Array, "B G T"],
    old_v_t: Float[Array, "B G T"],
    returns: Float[Array, "B G T"],
    *,
    clip: float,
) -> Float[Array, "B G T"]:
    """Return max((v - R)^2, (old + clip(v - old, -clip, clip) - R)^2) / 2 per token.

    Source: the released code of PPO (github.com/openai/baselines, ppo2); "The 37 Implementation
    Details of PPO" (ICLR blog track 2022), detail 9.
    """
    near = old_v_t + jnp.clip(v_t - old_v_t, -clip, clip)
    return jnp.maximum(jnp.square(v_t - returns), jnp.square(near - returns)) / 2


def kl_k1(
    log_probs: Float[Array, "B G T"], reference_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G T"]:
    """Estimate KL(pi || pi_ref) per token by k1 = log pi - log pi_ref.

    It is unbiased for tokens drawn from pi, and may have either sign. In a loss its gradient has
    mean 0, so it belongs in the reward.

    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    return log_probs - reference_log_probs


def kl_k2(
    log_probs: Float[Array, "B G T"], reference_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G T"]:
    """Estimate KL(pi || pi_ref) per token by k2 = (log pi - log pi_ref)^2 / 2.

    It is never negative. Its value is biased; its gradient is the KL's.

    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    return jnp.square(log_probs - reference_log_probs) / 2


def kl_k3(
    log_probs: Float[Array, "B G T"], reference_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G T"]:
    """Estimate KL(pi || pi_ref) per token by k3 = exp(d) - d - 1, d = log pi_ref - log pi.

    It is never negative, and unbiased for tokens drawn from pi.

    Source: Schulman, "Approximating KL Divergence" (2020); DeepSeekMath, equation 4.
    """
    difference = reference_log_probs - log_probs
    return jnp.expm1(difference) - difference


KL: dict[str, Callable[..., Array]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def truncated_importance(
    old_log_probs: Float[Array, "B G T"],
    sampler_log_probs: Float[Array, "B G T"],
    *,
    cap: float,
) -> Float[Array, "B G T"]:
    """Return min(pi_old / pi_sampler, cap) per token, without gradient.

    It corrects for a sampler whose arithmetic differs from the trainer's (arXiv 2604.09494, section
    4.3, with a cap of 2).
    """
    return lax.stop_gradient(jnp.minimum(jnp.exp(old_log_probs - sampler_log_probs), cap))


def masked_sum(values: Float[Array, "B G T"], mask: Bool[Array, "B G T"]) -> Float[Array, ""]:
    """Sum the values inside the mask; values outside it, even NaN, have no influence."""
    return jnp.where(mask, values, 0.0).sum()


def loss_denominator(
    mask: Bool[Array, "B G T"], aggregation: Aggregation, *, max_tokens: int
) -> Float[Array, ""]:
    """Return the divisor of `aggregate` from the mask of the whole batch.

    Args:
      max_tokens: the most tokens of a response, for "constant".
    """
    if aggregation == "token":
        count = mask.sum()
    elif aggregation == "sequence":
        count = mask.any(axis=-1).sum()
    else:
        count = jnp.asarray(mask.shape[0] * mask.shape[1] * max_tokens)
    return jnp.maximum(count, 1).astype(jnp.float32)


def aggregate(
    values: Float[Array, "B G T"],
    mask: Bool[Array, "B G T"],
    denominator: Num[Array, ""],
    aggregation: Aggregation,
) -> Float[Array, ""]:
    """Return the loss of a batch, or a micro-batch's share of it, from the tokens' losses.

    * "token": the mean over all tokens of the batch (DAPO, arXiv 2503.14476, equation 8);
    * "sequence": the mean over responses of the mean over their tokens (GRPO, arXiv 2402.03300,
      equation 3);
    * "constant": the sum over tokens, divided by the number of responses times their most tokens
      (Dr. GRPO, arXiv 2503.20783).

    With the denominator of the whole batch, the losses of its micro-batches add up to its loss.
    """
    if aggregation == "sequence":
        lengths = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
        values = values / lengths
    return masked_sum(values, mask) / denominator
