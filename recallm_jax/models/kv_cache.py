"""Keys and values of prompts, stored once a prompt, and of the responses under them.

Heads come before tokens, so that a decode step's products read them as they lie.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """What all continuations of a prompt share; read only while decoding."""

    keys: Float[Array, "L B K S H"]
    values: Float[Array, "L B K S H"]
    lengths: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """A prompt cache and the G responses growing under each prompt.

    Stacked on a leading layer axis; or, for `ModelConfig.unstack_decode`, tuples of one array a
    layer, with the layers' parameters beside them.
    """

    lengths: Int[Array, " B"]
    # Parameters of each layer; empty where the model's own stacked ones are scanned.
    layers: tuple[Any, ...]
    prompt_keys: Float[Array, "L B K S H"] | tuple[Float[Array, "B K S H"], ...]
    prompt_values: Float[Array, "L B K S H"] | tuple[Float[Array, "B K S H"], ...]
    keys: Float[Array, "L B G K T H"] | tuple[Float[Array, "B G K T H"], ...]
    values: Float[Array, "L B G K T H"] | tuple[Float[Array, "B G K T H"], ...]


def empty_responses(prompt: PromptCache, group_size: int, capacity: int) -> Cache:
    """Return a stacked cache with room for `capacity` tokens of G responses a prompt."""
    num_layers, batch, num_kv_heads, _, head_dim = prompt.keys.shape
    shape = (num_layers, batch, group_size, num_kv_heads, capacity, head_dim)
    zeros = jnp.zeros(shape, prompt.keys.dtype)
    return Cache(
        lengths=prompt.lengths,
        layers=(),
        prompt_keys=prompt.keys,
        prompt_values=prompt.values,
        keys=zeros,
        values=jnp.zeros_like(zeros),
    )


def unstacked(cache: Cache, layers: Any, num_layers: int) -> Cache:
    """Return the cache with arrays of their own for each layer, parameters included."""

    def split(tree: Any) -> tuple[Any, ...]:
        return tuple(jax.tree.map(lambda x, n=n: x[n], tree) for n in range(num_layers))

    return Cache(
        lengths=cache.lengths,
        layers=split(layers),
        prompt_keys=split(cache.prompt_keys),
        prompt_values=split(cache.prompt_values),
        keys=split(cache.keys),
        values=split(cache.values),
    )


def written(
    cache: Float[Array, "*L B G K T H"],
    token: Float[Array, "B G K H"],
    steps: Int[Array, " B"],
    layer: Int[Array, ""] | None = None,
) -> Float[Array, "*L B G K T H"]:
    """Return a layer's cache, or that layer of a stacked one, with token number `steps` set."""
    place = () if layer is None else (layer,)

    def of_prompt(cache: Array, token: Array, step: Array) -> Array:
        token = token[(None,) * len(place)][..., None, :]
        zero = jnp.zeros((), step.dtype)
        return jax.lax.dynamic_update_slice(cache, token, (*place, zero, zero, step, zero))

    # An update of each prompt's own, so that devices write to their own prompts alone.
    axis = len(place)
    return jax.vmap(of_prompt, in_axes=(axis, 0, 0), out_axes=axis)(cache, token, steps)


def inserted(cache: Cache, slot: Int[Array, ""], other: Cache) -> Cache:
    """Return the cache with prompt `slot` replaced by the only one of `other`."""
    # Unstacked arrays begin with the prompt, stacked ones with the layer.
    axis = 0 if isinstance(cache.keys, tuple) else 1

    def put(into: Any, one: Any) -> Any:
        return jax.tree.map(
            lambda all_, one_: jax.lax.dynamic_update_slice_in_dim(all_, one_, slot, axis),
            into,
            one,
        )

    return Cache(
        lengths=cache.lengths.at[slot].set(other.lengths[0]),
        # The same in both.
        layers=cache.layers,
        prompt_keys=put(cache.prompt_keys, other.prompt_keys),
        prompt_values=put(cache.prompt_values, other.prompt_values),
        keys=put(cache.keys, other.keys),
        values=put(cache.values, other.values),
    )
