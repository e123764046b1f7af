"""Keys and values of prompts, stored once a prompt, and of their responses, in blocks.

Heads come before tokens: the order in which the products of a decode step read them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Tokens of a block. A step reads whole blocks, up to the one with the newest token of its rows.
BLOCK = 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """The keys and values that all continuations of a prompt share; decoding only reads them."""

    keys: Float[Array, "L B K S H"]
    values: Float[Array, "L B K S H"]
    lengths: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seats:
    """The rows of each part as seats at their prompts: attention to prompts has [A, Q, G] queries.

    Attributes:
      prompt: the prompt of each row, among those of its part.
      seat: the row's number among the rows of its prompt.
      row: the row of each seat; any row for an empty seat.
    """

    prompt: Int[Array, "A R"]
    seat: Int[Array, "A R"]
    row: Int[Array, "A Q G"]

    def seated(self, x: Float[Array, "A R *rest"]) -> Float[Array, "A Q G *rest"]:
        """Bring values of rows into the order of seats."""
        return jax.vmap(lambda x, row: x[row])(x, self.row)

    def risen(self, x: Float[Array, "A Q G *rest"]) -> Float[Array, "A R *rest"]:
        """Bring values of seats into the order of rows."""
        return jax.vmap(lambda x, prompt, seat: x[prompt, seat])(x, self.prompt, self.seat)


def seats(prompt: Int[Array, "A R"], num_prompts: int, group_size: int) -> Seats:
    """Seat rows, at most `group_size` a prompt."""
    num_rows = prompt.shape[1]
    number = jnp.arange(num_rows, dtype=jnp.int32)
    before = (prompt[:, :, None] == prompt[:, None]) & (number[None, :, None] > number[None, None])
    seat = before.sum(axis=2, dtype=jnp.int32)

    def of_part(prompt: Array, seat: Array) -> Array:
        empty = jnp.zeros((num_prompts, group_size), jnp.int32)
        return empty.at[prompt, seat].set(number)

    return Seats(prompt, seat, jax.vmap(of_part)(prompt, seat))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The keys and values of A parts: of Q prompts a part, and of R growing responses.

    Arrays are stacked on a leading layer axis. With `ModelConfig.unstack_decode` they are tuples of
    one array a layer, and the cache holds the parameters of each layer too. The places of responses
    are blocks of X tokens.

    Attributes:
      lengths: the number of tokens of each prompt.
      layers: the parameters of each layer; empty if the model scans its stacked ones.
    """

    lengths: Int[Array, "A Q"]
    seats: Seats
    layers: tuple[Any, ...]
    prompt_keys: Float[Array, "L A Q K S H"] | tuple[Float[Array, "A Q K S H"], ...]
    prompt_values: Float[Array, "L A Q K S H"] | tuple[Float[Array, "A Q K S H"], ...]
    keys: Float[Array, "L blocks A R K X H"] | tuple[Float[Array, "blocks A R K X H"], ...]
    values: Float[Array, "L blocks A R K X H"] | tuple[Float[Array, "blocks A R K X H"], ...]

    @property
    def stacked(self) -> bool:
        """Whether the layers' arrays are stacked."""
        return not isinstance(self.keys, tuple)

    @property
    def blocks(self) -> tuple[int, int]:
        """The number of blocks of responses, and the places of a block."""
        blocks, *_, size, _ = jax.tree.leaves(self.keys)[0].shape[-6:]
        return blocks, size

    def map_prompts(self, function: Any) -> "Cache":
        """Return the cache with each array [A, Q, ...] of a layer's prompts replaced."""
        mapped = _each_layer(function, (self.prompt_keys, self.prompt_values), self.stacked)
        return dataclasses.replace(self, prompt_keys=mapped[0], prompt_values=mapped[1])

    def map_responses(self, function: Any) -> "Cache":
        """Return the cache with each array [blocks, A, R, ...] of a layer's responses replaced."""
        mapped = _each_layer(function, (self.keys, self.values), self.stacked)
        return dataclasses.replace(self, keys=mapped[0], values=mapped[1])


def _each_layer(function: Any, arrays: Any, stacked: bool) -> Any:
    return jax.tree.map(jax.vmap(function) if stacked else function, arrays)


def empty_responses(prompt: PromptCache, parts: int, group_size: int, capacity: int) -> Cache:
    """Return a stacked cache with places for `capacity` tokens of G responses a prompt."""
    num_layers, batch, num_kv_heads, size, head_dim = prompt.keys.shape
    num_prompts = batch // parts
    num_rows = num_prompts * group_size
    block, blocks = blocks_of(capacity)
    shape = (num_layers, blocks, parts, num_rows, num_kv_heads, block, head_dim)
    zeros = jnp.zeros(shape, prompt.keys.dtype)
    owner = jnp.arange(num_rows, dtype=jnp.int32) // group_size
    of_part = (num_layers, parts, num_prompts, num_kv_heads, size, head_dim)
    return Cache(
        lengths=prompt.lengths.reshape(parts, num_prompts),
        seats=seats(jnp.broadcast_to(owner[None], (parts, num_rows)), num_prompts, group_size),
        layers=(),
        prompt_keys=prompt.keys.reshape(of_part),
        prompt_values=prompt.values.reshape(of_part),
        keys=zeros,
        values=jnp.zeros_like(zeros),
    )


def blocks_of(capacity: int) -> tuple[int, int]:
    """Return the tokens of a block and the number of blocks that hold `capacity` tokens."""
    block = min(capacity, BLOCK)
    return block, -(-capacity // block)


def unstacked(cache: Cache, layers: Any, num_layers: int) -> Cache:
    """Split the cache, and the layers' parameters, into separate arrays for each layer."""

    def split(tree: Any) -> tuple[Any, ...]:
        return tuple(jax.tree.map(lambda x, n=n: x[n], tree) for n in range(num_layers))

    return dataclasses.replace(
        cache,
        layers=split(layers),
        prompt_keys=split(cache.prompt_keys),
        prompt_values=split(cache.prompt_values),
        keys=split(cache.keys),
        values=split(cache.values),
    )


def grown(cache: Cache, capacity: int) -> Cache:
    """Return the cache with places for `capacity` tokens, whose first places are those there."""
    blocks = -(-capacity // cache.blocks[1])

    def padded(x: Array) -> Array:
        return jnp.pad(x, [(0, blocks - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

    return cache.map_responses(padded)


def kept(cache: Cache, rows: Int[Array, "A R"]) -> Cache:
    """Return the cache of some rows of each part, and of their prompts."""
    num_rows = rows.shape[1]
    _, num_prompts, group_size = cache.seats.row.shape
    fewer, group_size = min(num_prompts, num_rows), min(group_size, num_rows)
    pick = jax.vmap(lambda x, at: x[at])
    prompt = pick(cache.seats.prompt, rows)
    cache = cache.map_responses(jax.vmap(lambda block: pick(block, rows)))
    lengths, prompts = cache.lengths, (cache.prompt_keys, cache.prompt_values)
    if fewer < num_prompts:
        present = jax.vmap(lambda at: jnp.zeros(num_prompts, bool).at[at].set(True))(prompt)
        order = jnp.argsort(~present, axis=1, stable=True)
        left = order[:, :fewer]
        prompt = pick(jnp.argsort(order, axis=1), prompt)
        lengths = pick(lengths, left)
        prompts = _each_layer(lambda x: pick(x, left), prompts, cache.stacked)
    return dataclasses.replace(
        cache,
        lengths=lengths,
        seats=seats(prompt, fewer, group_size),
        prompt_keys=prompts[0],
        prompt_values=prompts[1],
    )


def written(
    cache: Float[Array, "*L blocks A R K X H"],
    token: Float[Array, "A R K H"],
    steps: Int[Array, ""] | Int[Array, "A R"],
    layer: Int[Array, ""] | None = None,
) -> Float[Array, "*L blocks A R K X H"]:
    """Write token number `steps` of each row into a layer's cache, which may be a stacked one."""
    place = () if layer is None else (layer,)
    axis, size = len(place), cache.shape[-2]
    zero = jnp.zeros((), steps.dtype)
    if steps.ndim == 0:
        # All rows write at the same place: one update.
        start = (*place, steps // size, zero, zero, zero, steps % size, zero)
        return lax.dynamic_update_slice(cache, token[(None,) * (axis + 1)][..., None, :], start)

    def of_row(cache: Array, token: Array, step: Array) -> Array:
        start = (*place, step // size, zero, step % size, zero)
        return lax.dynamic_update_slice(cache, token[(None,) * (axis + 1)][..., None, :], start)

    # One update a row, so that each device writes to its own rows only.
    rows = jax.vmap(of_row, in_axes=(axis + 1, 0, 0), out_axes=axis + 1)
    return jax.vmap(rows, in_axes=(axis + 1, 0, 0), out_axes=axis + 1)(cache, token, steps)


def block_of(
    cache: Float[Array, "*L blocks A R K X H"],
    number: int | Int[Array, ""],
    layer: Int[Array, ""] | None = None,
) -> Float[Array, "A R K X H"]:
    """Return a block of a layer's cache, which may be a stacked one."""
    place = (number,) if layer is None else (layer, number)
    size = (1,) * len(place) + cache.shape[-5:]
    start = (*(jnp.asarray(at, jnp.int32) for at in place), *(jnp.int32(0),) * 5)
    return lax.dynamic_slice(cache, start, size).reshape(size[-5:])


def inserted(cache: Cache, slot: Int[Array, ""], other: Cache) -> Cache:
    """Return the cache with prompt `slot` replaced by the one prompt of `other`."""
    axis = 2 if cache.stacked else 1

    def put(into: Any, one: Any) -> Any:
        return jax.tree.map(
            lambda all_, one_: lax.dynamic_update_slice_in_dim(all_, one_, slot, axis), into, one
        )

    return dataclasses.replace(
        cache,
        lengths=cache.lengths.at[0, slot].set(other.lengths[0, 0]),
        prompt_keys=put(cache.prompt_keys, other.prompt_keys),
        prompt_values=put(cache.prompt_values, other.prompt_values),
    )
