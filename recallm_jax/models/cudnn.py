"""Causal attention by cuDNN, a GPU kernel that never holds the scores.

It serves prompts alone. Responses merge two parts of a softmax by their log-sum-exp, and JAX's
interface to cuDNN returns that number but drops its gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DTYPES = (jnp.bfloat16, jnp.float16)
# What cuDNN takes on all GPUs since Ampere.
MAX_HEAD, HEAD_MULTIPLE = 128, 8


def takes(query: Float[Array, "B S N H"]) -> bool:
    """Return whether cuDNN has a kernel for queries of this type and size."""
    head_dim = query.shape[-1]
    return query.dtype in DTYPES and head_dim <= MAX_HEAD and head_dim % HEAD_MULTIPLE == 0


def attend_causal(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
) -> Float[Array, "B S N H"]:
    """Attend causally: grouped-query softmax attention, scaled by 1/sqrt(H)."""
    return jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="cudnn")
