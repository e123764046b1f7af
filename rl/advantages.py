"""Advantages of group-sampled responses: pure functions over arrays."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def group_relative(rewards: Float[Array, "B G"], *, epsilon: float = 1e-6) -> Float[Array, "B G"]:
    """GRPO: A_i = (r_i - mean(r)) / (std(r) + epsilon) within each group.

    The standard deviation is that of the sample (divisor G - 1), as in the common
    implementations. A group whose rewards are all equal gets exactly 0.

    Source: DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    """
    centred = mean_centred(rewards)
    spread = jnp.sqrt(jnp.square(centred).sum(axis=1, keepdims=True) / (rewards.shape[1] - 1))
    equal = (rewards == rewards[:, :1]).all(axis=1, keepdims=True)
    return jnp.where(equal, 0.0, centred / (spread + epsilon))


def mean_centred(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Dr. GRPO: A_i = r_i - mean(r), without the division by the spread.

    Source: Dr. GRPO (arXiv 2503.20783), section 3.2.
    """
    return rewards - rewards.mean(axis=1, keepdims=True)
