"""Keys and values in blocks: of prompts, stored once a prompt, and of their responses.

Heads come before tokens: the order in which the products of a decode step read them. A part is the
prompts of a device, or of devices that split a prompt's tokens into Z stretches.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from decoding.arrays import picked
from recallm_jax.models.placement import Placement

# The logical axes of the blocks of prompts and of responses in a layer.
PROMPTS = (None, "batch", "length", "kv_heads", None, None)
RESPONSES = (None, "batch", "group", "kv_heads", None, None)
# The fewest and the most tokens of a block of responses, and the tokens of one of prompts. A step
# reads whole blocks.
BLOCK, LARGEST_BLOCK = 64, 256
PROMPT_BLOCK = 256
# Blocks of prompts that are read at once.
AT_ONCE = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """The keys and values of prompts after prefill."""

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
        return picked(x, self.row)

    def risen(self, x: Float[Array, "A Q G *rest"]) -> Float[Array, "A R *rest"]:
        """Bring values of seats into the order of rows."""
        return jax.vmap(lambda x, prompt, seat: x[prompt, seat])(x, self.prompt, self.seat)


def seats(prompt: Int[Array, "A R"], num_prompts: int, group_size: int) -> Seats:
    """Seat rows, at most `group_size` a prompt."""
    number = jnp.arange(prompt.shape[1], dtype=jnp.int32)
    before = (prompt[:, :, None] == prompt[:, None]) & (number[None, :, None] > number[None, None])
    seat = before.sum(axis=2, dtype=jnp.int32)

    def of_part(prompt: Array, seat: Array) -> Array:
        empty = jnp.zeros((num_prompts, group_size), jnp.int32)
        return empty.at[prompt, seat].set(number)

    return Seats(prompt, seat, jax.vmap(of_part)(prompt, seat))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shelf:
    """Which blocks hold which tokens of the prompts of each part.

    The blocks in use come first. A block has X tokens of each of the Z stretches of a prompt.

    Attributes:
      lengths: the number of tokens of each prompt.
      owner: the prompt that each block belongs to.
      first: the place in its prompt of each block's first token; past every prompt's end for a
        block without tokens.
      used: the number of blocks in use, the most of a part.
    """

    lengths: Int[Array, "A Q"]
    owner: Int[Array, "A blocks"]
    first: Int[Array, "A blocks Z"]
    used: Int[Array, ""]

    @property
    def real(self) -> Int[Array, "A blocks Z"]:
        """The number of tokens of each block, counted from its first."""
        lengths = picked(self.lengths, self.owner)
        return jnp.maximum(lengths[..., None] - self.first, 0)


# The place of a block without tokens.
NOWHERE = 1 << 30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The keys and values of A parts: of Q prompts a part, and of R growing responses.

    Arrays are stacked on a leading layer axis. With `ModelConfig.unstack_decode` they are tuples of
    one array a layer, and the cache holds the parameters of each layer too. Blocks of prompts hold
    X tokens of each stretch, those of responses Y tokens of each row.

    Attributes:
      layers: the parameters of each layer; empty if the model scans its stacked ones.
    """

    shelf: Shelf
    seats: Seats
    layers: tuple[Any, ...]
    prompt_keys: Float[Array, "L blocks A Z K X H"] | tuple[Float[Array, "blocks A Z K X H"], ...]
    prompt_values: Float[Array, "L blocks A Z K X H"] | tuple[Float[Array, "blocks A Z K X H"], ...]
    keys: Float[Array, "L M A R K Y H"] | tuple[Float[Array, "M A R K Y H"], ...]
    values: Float[Array, "L M A R K Y H"] | tuple[Float[Array, "M A R K Y H"], ...]

    @property
    def stacked(self) -> bool:
        """Whether the layers' arrays are stacked."""
        return not isinstance(self.keys, tuple)

    @property
    def blocks(self) -> tuple[int, int]:
        """The number of blocks of responses, and the tokens of a block."""
        blocks, *_, size, _ = jax.tree.leaves(self.keys)[0].shape[-6:]
        return blocks, size


@dataclasses.dataclass(frozen=True)
class CacheSizes:
    """The sizes of a cache; static.

    Attributes:
      parts, prompts, group_size: A; Q, the prompts of a part; and G.
      stretches: Z, the number of parts that devices split the tokens of a prompt into.
      prompt_blocks, prompt_block: the number of blocks of prompts, and X.
      capacity: the number of tokens that there is room for in each response.
    """

    parts: int
    prompts: int
    group_size: int
    stretches: int
    prompt_blocks: int
    prompt_block: int
    capacity: int


def block_size(capacity: int) -> int:
    """Return the tokens of a block of responses that there is room for `capacity` tokens of.

    Small blocks waste little of what is read, large ones take few rounds.
    """
    if capacity <= 2 * BLOCK:
        return min(capacity, BLOCK)
    return min(LARGEST_BLOCK, max(BLOCK, 1 << (capacity.bit_length() - 3)))


def empty_cache(layers: int, kv_heads: int, head_dim: int, dtype: Any, sizes: CacheSizes) -> Cache:
    """Return a stacked cache that holds no prompt and no token."""
    num_rows = sizes.prompts * sizes.group_size
    block = block_size(sizes.capacity)
    tail = (sizes.prompt_block, head_dim)
    of_prompts = (layers, sizes.prompt_blocks, sizes.parts, sizes.stretches, kv_heads, *tail)
    blocks_of_rows = -(-sizes.capacity // block)
    of_responses = (layers, blocks_of_rows, sizes.parts, num_rows, kv_heads, block, head_dim)
    owner = jnp.arange(num_rows, dtype=jnp.int32) // sizes.group_size
    owner = jnp.broadcast_to(owner[None], (sizes.parts, num_rows))
    blocks = (sizes.parts, sizes.prompt_blocks)
    return Cache(
        shelf=Shelf(
            lengths=jnp.ones((sizes.parts, sizes.prompts), jnp.int32),
            owner=jnp.zeros(blocks, jnp.int32),
            first=jnp.full((*blocks, sizes.stretches), NOWHERE, jnp.int32),
            used=jnp.zeros((), jnp.int32),
        ),
        seats=seats(owner, sizes.prompts, sizes.group_size),
        layers=(),
        prompt_keys=jnp.zeros(of_prompts, dtype),
        prompt_values=jnp.zeros(of_prompts, dtype),
        keys=jnp.zeros(of_responses, dtype),
        values=jnp.zeros(of_responses, dtype),
    )


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


def entered(
    cache: Cache, numbers: Int[Array, "A k"], prompts: PromptCache, place: Int[Array, ""]
) -> Cache:
    """Return the cache with k prompts more in each part, or in the place of others.

    Args:
      numbers: the prompts' numbers in their parts.
      prompts: A k prompts, those of a part side by side.
      place: the first of the blocks that they take.
    """
    parts, count = numbers.shape
    _, _, stretches = cache.shelf.first.shape
    num_layers, _, num_kv_heads, size, head_dim = prompts.keys.shape
    block = jax.tree.leaves(cache.prompt_keys)[0].shape[-2]
    per_prompt = size // stretches // block

    def blocked(x: Array) -> Array:
        x = x.reshape(
            num_layers, parts, count, num_kv_heads, stretches, per_prompt, block, head_dim
        )
        # [L, k, blocks, A, Z, K, X, H]
        x = x.transpose(0, 2, 5, 1, 4, 3, 6, 7)
        return x.reshape(num_layers, count * per_prompt, *x.shape[3:])

    def put(into: Any, x: Array) -> Any:
        if cache.stacked:
            return lax.dynamic_update_slice_in_dim(into, x, place, axis=1)
        return tuple(
            lax.dynamic_update_slice_in_dim(layer, x[number], place, axis=0)
            for number, layer in enumerate(into)
        )

    number = jnp.arange(per_prompt, dtype=jnp.int32)
    stretch = jnp.arange(stretches, dtype=jnp.int32) * (size // stretches)
    first = stretch[None] + number[:, None] * block
    first = jnp.broadcast_to(first[None, None], (parts, count, *first.shape))
    shelf = cache.shelf

    def put_blocks(into: Array, x: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(into, x, place, axis=1)

    return dataclasses.replace(
        cache,
        shelf=Shelf(
            lengths=jax.vmap(lambda lengths, at, new: lengths.at[at].set(new))(
                shelf.lengths, numbers, prompts.lengths.reshape(parts, count)
            ),
            owner=put_blocks(shelf.owner, jnp.repeat(numbers, per_prompt, axis=1)),
            first=put_blocks(shelf.first, first.reshape(parts, -1, stretches)),
            used=jnp.maximum(shelf.used, place + count * per_prompt),
        ),
        prompt_keys=put(cache.prompt_keys, blocked(prompts.keys)),
        prompt_values=put(cache.prompt_values, blocked(prompts.values)),
    )


def laid_out(x: Array, axes: tuple[str | None, ...], placement: Placement | None) -> Array:
    """Lay out a layer's array, or a stacked one, by the logical axes of a layer."""
    if placement is None:
        return x
    return placement.constrain(x, (None,) * (x.ndim - len(axes)) + axes)


def grown(cache: Cache, capacity: int, placement: Placement | None) -> Cache:
    """Return the cache with room for `capacity` tokens of each response, and free the given one.

    This runs on the host. Only one array at a time is there twice.
    """
    blocks, size = cache.blocks
    # A few blocks make one larger block.
    joined = max(1, block_size(capacity) // size)
    missing = -(-capacity // (size * joined)) * joined - blocks
    return dataclasses.replace(
        cache,
        keys=_moved(cache.keys, lambda x: _longer(x, missing, joined, placement)),
        values=_moved(cache.values, lambda x: _longer(x, missing, joined, placement)),
    )


def kept(cache: Cache, rows: Int[Array, "A R"], placement: Placement | None) -> Cache:
    """Return the cache of some rows of each part, and of their prompts, and free the given one.

    This runs on the host. Only one array at a time is there twice.
    """
    shelf, seats, order = _fewer_seats(cache.shelf, cache.seats, rows)

    def of_rows(arrays: Any) -> Any:
        return _moved(arrays, lambda x: _taken(x, rows, -4, RESPONSES, placement))

    def of_prompts(arrays: Any) -> Any:
        return _moved(arrays, lambda x: _taken(x, order, -6, PROMPTS, placement))

    cache = dataclasses.replace(
        cache, shelf=shelf, seats=seats, keys=of_rows(cache.keys), values=of_rows(cache.values)
    )
    if order is None:
        return cache
    return dataclasses.replace(
        cache,
        prompt_keys=of_prompts(cache.prompt_keys),
        prompt_values=of_prompts(cache.prompt_values),
    )


def _moved(arrays: Any, move: Callable[[Array], Array]) -> Any:
    """Move arrays one by one, and free each before the next is moved."""
    leaves, tree = jax.tree.flatten(arrays)
    for number, old in enumerate(leaves):
        leaves[number] = move(old)
        old.delete()
    return jax.tree.unflatten(tree, leaves)


@functools.partial(jax.jit, static_argnames=("missing", "joined", "placement"))
def _longer(x: Array, missing: int, joined: int, placement: Placement | None) -> Array:
    """Add blocks of responses [*L, M, A, R, K, Y, H], and join adjacent ones into larger ones."""
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 6) + [(0, missing)] + [(0, 0)] * 5)
    x = x.reshape(*x.shape[:-6], -1, joined, *x.shape[-5:])
    x = jnp.moveaxis(x, -6, -3)
    x = x.reshape(*x.shape[:-3], -1, x.shape[-1])
    return laid_out(x, RESPONSES, placement)


@functools.partial(jax.jit, static_argnames=("axis", "axes", "placement"))
def _taken(
    x: Array,
    numbers: Int[Array, "A taken"],
    axis: int,
    axes: tuple[str | None, ...],
    placement: Placement | None,
) -> Array:
    """Take some entries of each part, which is axis -5, along an axis."""
    # Without the axis of parts.
    axis = axis if axis > -5 else axis + 1

    def of_part(x: Array, numbers: Array) -> Array:
        return jnp.take(x, numbers, axis=axis, mode="clip")

    taken = jax.vmap(of_part, in_axes=(-5, 0), out_axes=-5)(x, numbers)
    return laid_out(taken, axes, placement)


@jax.jit
def _fewer_seats(
    shelf: Shelf, old: Seats, rows: Int[Array, "A R"]
) -> tuple[Shelf, Seats, Int[Array, "A blocks"] | None]:
    """Return shelf and seats for some rows of each part, and the new order of prompts' blocks.

    The blocks of prompts without rows come last, where no step reads them. The order is None if
    every part has one prompt.
    """
    num_rows = rows.shape[1]
    _, num_prompts, group_size = old.row.shape
    fewer, group_size = min(num_prompts, num_rows), min(group_size, num_rows)
    prompt = picked(old.prompt, rows)
    if num_prompts == 1:
        return shelf, seats(prompt, 1, group_size), None
    present = jax.vmap(lambda at: jnp.zeros(num_prompts, bool).at[at].set(True))(prompt)
    left = jnp.argsort(~present, axis=1, stable=True)
    # The new number of each prompt that is left.
    number = jnp.argsort(left, axis=1)
    in_use = picked(present, shelf.owner) & (shelf.first < NOWHERE).any(axis=2)
    order = jnp.argsort(~in_use, axis=1, stable=True)
    first = jnp.where(in_use[..., None], shelf.first, NOWHERE)
    shelf = Shelf(
        lengths=picked(shelf.lengths, left[:, :fewer]),
        owner=jnp.minimum(picked(picked(number, shelf.owner), order), fewer - 1),
        first=picked(first, order),
        used=in_use.sum(axis=1, dtype=jnp.int32).max(),
    )
    return shelf, seats(picked(number, prompt), fewer, group_size), order


def written(
    cache: Float[Array, "*L M A R K Y H"],
    token: Float[Array, "A R K H"],
    steps: Int[Array, ""] | Int[Array, "A R"],
    layer: Int[Array, ""] | None = None,
) -> Float[Array, "*L M A R K Y H"]:
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


def blocks_of(
    cache: Float[Array, "*L blocks A R_or_Z K size H"],
    number: int | Int[Array, ""],
    count: int,
    layer: Int[Array, ""] | None = None,
) -> Float[Array, "count A R_or_Z K size H"]:
    """Return some blocks of a layer's cache, which may be a stacked one, from a number on."""
    place = (number,) if layer is None else (layer, number)
    size = (*(1,) * (len(place) - 1), count, *cache.shape[-5:])
    start = (*(jnp.asarray(at, jnp.int32) for at in place), *(jnp.int32(0),) * 5)
    return lax.dynamic_slice(cache, start, size).reshape(size[-6:])
