"""Advantages of group-sampled responses: pure functions over arrays.

A response without a reward (see `known`) is left out of its group: it does not count in the group's
mean or spread, and its advantage is 0.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Rewards = Float[Array | np.ndarray, "B G"]
Known = Bool[Array | np.ndarray, "B G"]


def group_relative(
    rewards: Rewards, known: Known | None = None, *, epsilon: float = 1e-6
) -> Float[Array, "B G"]:
    """GRPO: A_i = (r_i - mean(r)) / (std(r) + epsilon) within each group.

    The standard deviation is the sample's, with divisor G - 1, as in the common implementations. A
    group whose rewards are all equal, such as a group of one, gets exactly 0.

    Source: DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    """
    known = _all(rewards) if known is None else known
    centred = mean_centred(rewards, known)
    freedom = jnp.maximum(1, known.sum(axis=1, keepdims=True) - 1)
    spread = jnp.sqrt(jnp.square(centred).sum(axis=1, keepdims=True) / freedom)
    # Rounding errors of the mean, divided by a spread of 0, would be large.
    return jnp.where(has_spread(rewards, known)[:, None], centred / (spread + epsilon), 0.0)


def mean_centred(rewards: Rewards, known: Known | None = None) -> Float[Array, "B G"]:
    """Dr. GRPO: A_i = r_i - mean(r), without the division by the spread.

    Source: Dr. GRPO (arXiv 2503.20783), section 3.2.
    """
    known = _all(rewards) if known is None else known
    count = jnp.maximum(1, known.sum(axis=1, keepdims=True))
    mean = jnp.where(known, rewards, 0.0).sum(axis=1, keepdims=True) / count
    return jnp.where(known, rewards - mean, 0.0)


def leave_one_out(rewards: Rewards, known: Known | None = None) -> Float[Array, "B G"]:
    """RLOO: A_i = r_i - mean of the group's other rewards.

    Raises:
      ValueError: the groups have a single response.

    Source: Ahmadian et al., "Back to Basics" (arXiv 2402.14740), equation 7.
    """
    if rewards.shape[1] < 2:
        raise ValueError("leave-one-out needs groups of at least 2 responses, not 1")
    known = _all(rewards) if known is None else known
    count = known.sum(axis=1, keepdims=True)
    return mean_centred(rewards, known) * (count / jnp.maximum(1, count - 1))


def has_spread(rewards: Rewards, known: Known) -> Bool[Array, "B"]:
    """Return which groups' rewards differ; a group with one reward or none has no spread."""
    most = jnp.where(known, rewards, -jnp.inf).max(axis=1)
    return most > jnp.where(known, rewards, jnp.inf).min(axis=1)


def _all(rewards: Rewards) -> Known:
    return jnp.ones(rewards.shape, bool)


def generalized(
    r_t: Float[Array, "B G T"],
    v_t: Float[Array, "B G T"],
    mask: Bool[Array, "B G T"],
    *,
    discount: float,
    trace_decay: float,
) -> Float[Array, "B G T"]:
    """GAE: A_t = sum_k (discount trace_decay)^k delta_{t+k} over the rest of the response.

    delta_t = r_t + discount v_{t+1} - v_t, where v is 0 after the response's last token.

    Args:
      r_t: the rewards for emitting token t.
      v_t: the values of the state before token t.
      mask: the tokens of each response, from its first token on; elsewhere A is 0 and no other
        argument is read.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation" (arXiv 1506.02438), equation 16.
    """
    r_t, v_t = jnp.where(mask, r_t, 0.0), jnp.where(mask, v_t, 0.0)
    v_tp1 = jnp.concatenate([v_t[..., 1:], jnp.zeros_like(v_t[..., :1])], axis=-1)
    delta_t = r_t + discount * v_tp1 - v_t

    def step(a_tp1, delta):
        a_t = delta + discount * trace_decay * a_tp1
        return a_t, a_t

    _, a_t = lax.scan(
        step, jnp.zeros_like(delta_t[..., 0]), jnp.moveaxis(delta_t, -1, 0), reverse=True
    )
    return jnp.moveaxis(a_t, 0, -1)


def whiten(
    advantages: Float[Array, "B G T"], mask: Bool[Array, "B G T"], *, epsilon: float = 1e-8
) -> Float[Array, "B G T"]:
    """Return (A - mean) / sqrt(variance + epsilon) over all tokens of the batch, and 0 elsewhere.

    Source: "The 37 Implementation Details of PPO" (ICLR blog track 2022), detail 7.
    """
    count = jnp.maximum(mask.sum(), 1)
    mean = jnp.where(mask, advantages, 0.0).sum() / count
    centred = jnp.where(mask, advantages - mean, 0.0)
    variance = jnp.square(centred).sum() / count
    return centred * lax.rsqrt(variance + epsilon)


def token_rewards(
    totals: Float[Array, "B G"],
    kl: Float[Array, "B G T"],
    lengths: Int[Array, "B G"],
    *,
    coefficient: float,
) -> Float[Array, "B G T"]:
    """Return r_t = -coefficient kl_t, and the response's reward on its last token.

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593),
    equation 2, with its penalty on each token as in InstructGPT (arXiv 2203.02155).
    """
    places = jnp.arange(kl.shape[-1])[None, None]
    last = places == lengths[..., None] - 1
    inside = places < lengths[..., None]
    return jnp.where(inside, -coefficient * kl, 0.0) + jnp.where(last, totals[..., None], 0.0)


OF_GROUPS: dict[str, Callable[[Array, Array], Array]] = {
    "group": group_relative,
    "centred": mean_centred,
    "leave_one_out": leave_one_out,
}
