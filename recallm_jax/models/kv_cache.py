"""Keys and values of prompts, stored once a prompt, and of their responses.

Heads come before tokens: the order in which the products of a decode step read them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """The keys and values that all continuations of a prompt share; decoding only reads them."""

    keys: Float[Array, "L B K S H"]
    values: Float[Array, "L B K S H"]
    lengths: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """A prompt cache, and the keys and values of G growing responses a prompt.

    Arrays are stacked on a leading layer axis. With `ModelConfig.unstack_decode` they are tuples of
    one array a layer, and the cache holds the parameters of each layer too.
    """

    lengths: Int[Array, " B"]
    # The parameters of each layer; empty if the model scans its stacked ones.
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
    """Split the cache, and the layers' parameters, into separate arrays for each layer."""

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
    """Write token number `steps` into a layer's cache, or into one layer of a stacked cache."""
    place = () if layer is None else (layer,)

    def of_prompt(cache: Array, token: Array, step: Array) -> Array:
        token = token[(None,) * len(place)][..., None, :]
        zero = jnp.zeros((), step.dtype)
        return jax.lax.dynamic_update_slice(cache, token, (*place, zero, zero, step, zero))

    # One update a prompt, so that each device writes to its own prompts only.
    axis = len(place)
    return jax.vmap(of_prompt, in_axes=(axis, 0, 0), out_axes=axis)(cache, token, steps)


def inserted(cache: Cache, slot: Int[Array, ""], other: Cache) -> Cache:
    """Return the cache with prompt `slot` replaced by the one prompt of `other`."""
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
        # Both caches hold the same.
        layers=cache.layers,
        prompt_keys=put(cache.prompt_keys, other.prompt_keys),
        prompt_values=put(cache.prompt_values, other.prompt_values),
        keys=put(cache.keys, other.keys),
        values=put(cache.values, other.values),
    )
