"""Attention of many tokens by JAX's splash attention, a TPU kernel that never holds the scores.

Groups need two masks. Within a prompt, which devices may split, attention is causal. A response
sees the prompt up to its length, and itself causally. The rows of responses to a prompt are one
sequence of queries over one sequence of keys: those of the prompt, then those of the rows. Blocks
of scores that a mask leaves empty are not computed. Where a row holds several responses, the kernel
computes masks from numbers that say for each query which keys it sees. The kernel brings both
gradients.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
    splash_attention_mask_info,
)
from jaxtyping import Array, Float, Int

from recallm_jax.models.attention import Projected

# The sides of blocks of scores, largest first. Sequences are padded to multiples of the smallest.
BLOCKS = (512, 256, 128)
# Parts of at least this many tokens are padded to multiples of the largest.
LONG = 4096


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The way in which the kernel runs: interpreted if there is no TPU, for tests."""

    interpret: bool = False


def tile(size: int, parts: int) -> int:
    """Return a number whose multiples split into `parts` parts, each of whole blocks."""
    block = BLOCKS[0] if size // parts >= LONG else BLOCKS[-1]
    # Parts are halved to balance their work.
    return block if parts == 1 else 2 * parts * block


@dataclasses.dataclass(frozen=True)
class _Causal(splash_attention_mask.Mask):
    """Query i sees keys 0 to i; the queries are in chunks of equal size, in the given order.

    A block is within one chunk.
    """

    size: int
    chunks: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.size, self.size

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        (first, last), (first_key, last_key) = map(_ends, index)
        length = self.size // len(self.chunks)
        place = self.chunks[first // length] * length + first % length
        return _triangle(place - first_key, last - first, last_key - first_key)


@dataclasses.dataclass(frozen=True)
class _Responses(splash_attention_mask.Mask):
    """Query (r, p) sees all keys of the prompt, and keys (r, 0) to (r, p) of the rows.

    A block is within the prompt or within one row.
    """

    prompt: int
    group: int
    length: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.group * self.length, self.prompt + self.group * self.length

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        (first, last), (first_key, last_key) = map(_ends, index)
        rows, columns = last - first, last_key - first_key
        first_key -= self.prompt
        if first_key < 0:
            return _constant(True, rows, columns)
        if first // self.length != first_key // self.length:
            return _constant(False, rows, columns)
        return _triangle(first - first_key, rows, columns)


@dataclasses.dataclass(frozen=True)
class _PackedResponses(_Responses):
    """A query sees all keys of the prompt, and those of its own response up to itself.

    Each query has a number, `seen_by`: its first own key among the keys of the rows, and how many
    tokens of its response come before it. The mask above says which blocks are computed.
    """

    @property
    def q_sequence(self) -> np.ndarray:
        """Stands for the numbers, which are known when the program runs."""
        return np.zeros(self.shape[0], np.int32)

    @property
    def radix(self) -> int:
        """The factor of the first key in a number."""
        return 1 << (self.length - 1).bit_length()

    def seen_by(self, places: Int[Array, "R P"]) -> Int[Array, " Q"]:
        """Return the numbers of the queries, from the number of each token in its response."""
        places = places.reshape(-1)
        return (jnp.arange(places.size, dtype=jnp.int32) - places) * self.radix + places

    def mask_function(self, number, key):
        """Return whether the queries see the keys; arrays of one shape."""
        shift = self.radix.bit_length() - 1
        ahead = key - self.prompt - jnp.right_shift(number, shift)
        return (key < self.prompt) | ((ahead >= 0) & (ahead <= (number & (self.radix - 1))))


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop


def _triangle(ahead: int, rows: int, columns: int) -> np.ndarray:
    """Return the causal mask of a block whose first query is `ahead` keys after its first key.

    Most blocks are all true or all false. A long prompt has tens of thousands of them, so these
    are made once.
    """
    if ahead >= columns - 1:
        return _constant(True, rows, columns)
    if ahead + rows <= 0:
        return _constant(False, rows, columns)
    return np.arange(rows)[:, None] + ahead >= np.arange(columns)[None]


@functools.lru_cache
def _constant(value: bool, rows: int, columns: int) -> np.ndarray:
    return np.full((rows, columns), value)


def attend_causal(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    axes: tuple[str, ...],
    parts: int,
    kernel: Kernel,
) -> Float[Array, "B Q N H"]:
    """Attend causally with this device's part of the queries.

    The last part of a prompt sees many more keys than the first. So devices exchange queries: each
    computes one early chunk and one late chunk, of half a part, and returns the results.

    Args:
      axes: the mesh axes that split the queries, into `parts` equal parts.
    """
    size = key.shape[1]
    if parts == 1:
        attend = _kernel(_Causal(size, (0,)), size, size, 1, kernel)
        rows = jax.vmap(attend)(*_heads_first(query, key, value))
        return jnp.moveaxis(rows, 1, 2)
    chunks = _balanced(parts)
    # Device i sends its halves, chunks 2 i and 2 i + 1, to the devices that the order says.
    routes = [[(i, chunks.index(2 * i + half) // 2) for i in range(parts)] for half in (0, 1)]
    halves = jnp.split(query, 2, axis=1)
    query = jnp.concatenate(
        [lax.ppermute(x, axes, route) for x, route in zip(halves, routes, strict=True)], axis=1
    )
    attend = _kernel(_Causal(size, chunks), size // parts // 2, size, parts, kernel)
    attend = _of_part(attend, lax.axis_index(axes), parts)
    rows = jax.vmap(attend)(*_heads_first(query, key, value))
    halves = jnp.split(jnp.moveaxis(rows, 1, 2), 2, axis=1)
    back = [[(there, here) for here, there in route] for route in routes]
    return jnp.concatenate(
        [lax.ppermute(x, axes, route) for x, route in zip(halves, back, strict=True)], axis=1
    )


def _balanced(parts: int) -> tuple[int, ...]:
    """Return the order of 2 n chunks in which part d has chunks d and 2 n - 1 - d, even one first.

    Even chunks are the first halves of their parts, so that each half of a part has one sender.
    """
    pairs = ((d, 2 * parts - 1 - d) for d in range(parts))
    return tuple(chunk for pair in pairs for chunk in sorted(pair, key=lambda chunk: chunk % 2))


def attend_responses(
    own: Projected,
    prompt_key: Float[Array, "B S K H"],
    prompt_value: Float[Array, "B S K H"],
    lengths: Int[Array, " B"],
    places: Int[Array, "B R P"] | None,
    kernel: Kernel,
) -> Float[Array, "B R P N H"]:
    """Attend from responses to `lengths` keys of their prompt, and causally to their own.

    Args:
      own: the queries, keys and values of the responses, in rows [B, R, P].
      places: the number of each token in its response; None if each row is one response.
    """
    query, own_key, own_value = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in own)
    size = prompt_key.shape[1]
    group, length = own.query.shape[1:3]
    key = jnp.concatenate([prompt_key, own_key], axis=1)
    value = jnp.concatenate([prompt_value, own_value], axis=1)
    # Tokens see only their own segment; only the prompt's padding is in another one.
    at = jnp.arange(key.shape[1])[None]
    padding = (at >= lengths[:, None]) & (at < size)
    segments = splash_attention_kernel.SegmentIds(
        q=jnp.zeros(query.shape[:2], jnp.int32), kv=padding.astype(jnp.int32)
    )
    divided = np.gcd(size, length).item()
    inputs = (*_heads_first(query, key, value), segments)
    if places is None:
        attend = _kernel(_Responses(size, group, length), length, divided, 1, kernel)
        rows = jax.vmap(attend)(*inputs)
    else:
        mask = _PackedResponses(size, group, length)
        if group * length * mask.radix > 1 << 31:
            raise ValueError(f"{group} rows of {length} tokens a device are too many; use fewer")
        attend = _kernel(mask, length, divided, 1, kernel)

        def attend_packed(places, *inputs):
            return _with_numbers(attend, mask.seen_by(places))(*inputs)

        rows = jax.vmap(attend_packed)(places, *inputs)
    return jnp.moveaxis(rows, 1, 2).reshape(own.query.shape)


def _heads_first(query, key, value):
    # The kernel does not scale.
    scaled = query.astype(jnp.float32) * query.shape[-1] ** -0.5
    return (jnp.moveaxis(x, 2, 1) for x in (scaled.astype(query.dtype), key, value))


def _kernel(mask, queries: int, keys: int, parts: int, kernel: Kernel):
    """Return the kernel for a mask, with blocks that divide `queries` and `keys`."""
    rows, columns = (next(b for b in BLOCKS if size % b == 0) for size in (queries, keys))
    blocks = splash_attention_kernel.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    # All heads have the same mask. Its tables are constants of the traced program.
    with jax.ensure_compile_time_eval():
        return splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask((mask,)),
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=parts,
            residual_checkpoint_name="attention",
            interpret=kernel.interpret,
        )


def _with_numbers(kernel, numbers: Int[Array, " Q"]):
    """Return the kernel of a computed mask with the numbers of its queries."""
    infos = (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info)
    return splash_attention_kernel.SplashAttentionKernel(
        *(info._replace(q_sequence=numbers) for info in infos), **kernel.kwargs
    )


def _of_part(kernel, number: Int[Array, ""], parts: int):
    """Return the kernel of a mask for one part of its queries."""

    def part(table):
        size = table.shape[1] // parts
        return lax.dynamic_slice_in_dim(table, number * size, size, axis=1)

    def of_part(info: splash_attention_mask_info.MaskInfo | None):
        if info is None:
            return None
        return info._replace(
            data_next=part(info.data_next),
            mask_next=part(info.mask_next),
            block_mask=part(info.block_mask),
        )

    infos = (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info)
    return splash_attention_kernel.SplashAttentionKernel(*map(of_part, infos), **kernel.kwargs)
