"""Keys and values of prompts, stored once a prompt, and of the responses under them."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """What all continuations of a prompt share; read only while decoding."""

    keys: Float[Array, "L B S K H"]
    values: Float[Array, "L B S K H"]
    lengths: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """A prompt cache and the G responses growing under each prompt."""

    prompt: PromptCache
    keys: Float[Array, "L B G T K H"]
    values: Float[Array, "L B G T K H"]


def empty_responses(prompt: PromptCache, group_size: int, capacity: int) -> Cache:
    """Return a cache with room for `capacity` tokens of G responses a prompt."""
    num_layers, batch, _, num_kv_heads, head_dim = prompt.keys.shape
    shape = (num_layers, batch, group_size, capacity, num_kv_heads, head_dim)
    zeros = jnp.zeros(shape, prompt.keys.dtype)
    return Cache(prompt=prompt, keys=zeros, values=jnp.zeros_like(zeros))
