"""Policy-gradient losses over tokens: pure functions over arrays.

All of them take log-probabilities in nats under the span mask, [B, G, T], and a mask of the tokens
that count.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def clipped_surrogate(
    log_probs: Float[Array, "B G T"],
    old_log_probs: Float[Array, "B G T"],
    advantages: Float[Array, "B G"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Array, "B G T"]:
    """PPO's loss per token: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

    rho = exp(log pi - log pi_old). To be minimised.

    Source: PPO (arXiv 1707.06347), equation 7; separate bounds from DAPO (arXiv 2503.14476).
    """
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    return -jnp.minimum(ratio * advantages[..., None], clipped * advantages[..., None])


def kl_k3(
    log_probs: Float[Array, "B G T"], reference_log_probs: Float[Array, "B G T"]
) -> Float[Array, "B G T"]:
    """Estimate KL(pi || pi_ref) per token by k3 = exp(d) - d - 1, d = log pi_ref - log pi.

    Never negative; unbiased for tokens drawn from pi.

    Source: Schulman, "Approximating KL Divergence" (2020); DeepSeekMath, equation 4.
    """
    difference = reference_log_probs - log_probs
    return jnp.expm1(difference) - difference


def truncated_importance(
    old_log_probs: Float[Array, "B G T"],
    sampler_log_probs: Float[Array, "B G T"],
    *,
    cap: float,
) -> Float[Array, "B G T"]:
    """Return min(pi_old / pi_sampler, cap) per token, without gradient.

    Corrects for a sampler whose arithmetic differs from the trainer's (arXiv 2604.09494, section
    4.3, cap 2).
    """
    return lax.stop_gradient(jnp.minimum(jnp.exp(old_log_probs - sampler_log_probs), cap))


def masked_sum(values: Float[Array, "B G T"], mask: Bool[Array, "B G T"]) -> Float[Array, ""]:
    """Sum the values where the mask holds; what stands elsewhere, NaN even, has no influence."""
    return jnp.where(mask, values, 0.0).sum()
