"""Attention in parts that are merged by their log-sum-exp.

A response token attends to its prompt, whose keys and values all G continuations share (`attend`),
and to its own response (`row_attention.py`); `merge` combines the parts exactly as one softmax
would. A call holds the scores of at most QUERY_BLOCK queries a key head and prompt at a time,
forward and backward. Causal attention splits the queries into up to MAX_SEGMENTS segments, each of
which takes only the keys up to its end: with 8 segments, 7 of 16 parts of the scores are never
computed.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from recallm_jax.models.kv_cache import Shelf


class Projected(NamedTuple):
    """Rotated queries and keys, and values, of tokens [B, S] or [B, G, T]."""

    query: Float[Array, "*tokens N H"]
    key: Float[Array, "*tokens K H"]
    value: Float[Array, "*tokens K H"]


QUERY_BLOCK = 1024
MAX_SEGMENTS = 8
MIN_SEGMENT = 256
# Stands for -inf where a softmax over nothing must stay finite.
MASKED = -1e30


def attend(
    query: Float[Array, "batch Q N H"],
    key: Float[Array, "batch P K H"],
    value: Float[Array, "batch P K H"],
    *,
    key_lengths: Int[Array, " batch"] | None = None,
    causal: bool = False,
) -> tuple[Float[Array, "batch Q N H"], Float[Array, "batch Q N"]]:
    """Attend to a part of the keys: grouped-query softmax attention, scaled by 1/sqrt(H).

    Args:
      key_lengths: the number of keys that are seen, the first ones.
      causal: query i sees keys 0 to i.

    Returns:
      The output, and the log-sum-exp of the scores in float32 (for `merge`). It is MASKED for a
      query that sees no key.
    """
    num_queries = query.shape[1]
    if not causal or num_queries != key.shape[1] or num_queries <= MIN_SEGMENT:
        return _attend_segment(query, key, value, key_lengths, causal, 0)
    size = _segment_size(num_queries)
    segment = _attend_segment
    if num_queries > QUERY_BLOCK:
        segment = jax.checkpoint(segment, static_argnums=(4, 5))
    parts = []
    for first in range(0, num_queries, size):
        last = min(first + size, num_queries)
        seen = slice(0, last)
        parts.append(
            segment(query[:, first:last], key[:, seen], value[:, seen], key_lengths, causal, first)
        )
    outputs, sums = zip(*parts, strict=True)
    return jnp.concatenate(outputs, axis=1), jnp.concatenate(sums, axis=1)


def _segment_size(num_queries: int) -> int:
    """Return the number of queries in a segment of causal attention."""
    if num_queries <= MIN_SEGMENT:
        return num_queries
    return max(MIN_SEGMENT, -(-num_queries // MAX_SEGMENTS))


def attend_from(
    query: Float[Array, "batch Q N H"],
    key: Float[Array, "batch P K H"],
    value: Float[Array, "batch P K H"],
    first: Int[Array, ""],
) -> Float[Array, "batch Q N H"]:
    """Attend causally with some of the queries, from number `first` on, to all keys."""
    # Only the device knows where the queries begin, so no keys can be left out.
    segment = jax.checkpoint(_attend_segment, static_argnums=(4,))
    return segment(query, key, value, None, True, first)[0]


def _attend_segment(query, key, value, key_lengths, causal, first):
    """Attend with the queries from number `first` on, QUERY_BLOCK of them at a time."""
    num_queries = query.shape[1]
    if num_queries <= QUERY_BLOCK:
        return _attend_block(query, key, value, key_lengths, causal, first)
    num_blocks = -(-num_queries // QUERY_BLOCK)
    padding = num_blocks * QUERY_BLOCK - num_queries
    padded = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    blocks = padded.reshape(query.shape[0], num_blocks, QUERY_BLOCK, *query.shape[2:])
    firsts = first + jnp.arange(num_blocks, dtype=jnp.int32) * QUERY_BLOCK

    @jax.checkpoint
    def one_block(block):
        return _attend_block(block[0], key, value, key_lengths, causal, block[1])

    outputs, sums = lax.map(one_block, (jnp.moveaxis(blocks, 1, 0), firsts))

    def joined(field):
        field = jnp.moveaxis(field, 0, 1)
        return field.reshape(field.shape[0], -1, *field.shape[3:])[:, :num_queries]

    return joined(outputs), joined(sums)


def _attend_block(query, key, value, key_lengths, causal, first):
    batch, num_queries, _, head_dim = query.shape
    num_keys, num_kv_heads = key.shape[1:3]
    # All queries of a key head are rows of one plain matrix product, in the order of memory.
    rows = query.reshape(batch, num_queries, num_kv_heads, -1, head_dim).transpose(0, 2, 1, 3, 4)
    grouped = rows.shape
    rows = rows.reshape(batch, num_kv_heads, -1, head_dim)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkrh,bkph->bkrp", rows, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(*grouped[:4], num_keys) * head_dim**-0.5
    places = jnp.arange(num_keys)
    seen = None
    if causal:
        queries = first + jnp.arange(num_queries)
        seen = (places[None, :] <= queries[:, None])[None, None, :, None]
    if key_lengths is not None:
        real = (places[None] < key_lengths[:, None])[:, None, None, None]
        seen = real if seen is None else seen & real
    if seen is not None:
        scores = jnp.where(seen, scores, MASKED)
    peak = lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    weights = (weights / total).astype(value.dtype).reshape(*rows.shape[:3], num_keys)
    output = jnp.einsum("bkrp,bkph->bkrh", weights, value).reshape(grouped)
    sums = (jnp.log(total) + peak)[..., 0]
    return (
        output.transpose(0, 2, 1, 3, 4).reshape(query.shape),
        sums.transpose(0, 2, 1, 3).reshape(query.shape[:3]),
    )


def attend_prompts(
    query: Float[Array, "A Q G N H"],
    read: Callable[[int | Int[Array, ""]], tuple[Array, Array]],
    shelf: Shelf,
    at_once: int,
) -> tuple[Float[Array, "A Q G N H"], Float[Array, "A Q G N"]]:
    """Attend to prompts in blocks, each of which has the queries of its own prompt; see `attend`.

    Only the blocks in use are read, `at_once` of them at a time. Each is a part of its prompt's
    softmax, and so is each stretch of a prompt that devices hold apart.

    Args:
      read: returns the keys and values [W, A, Z, K, X, H] of W = `at_once` blocks, by the number of
        the first.
    """
    parts, num_prompts, group_size, num_heads, head_dim = query.shape
    num_blocks, stretches = shelf.first.shape[1:]
    num_kv_heads = read(0)[0].shape[3]
    by_key_head = (parts, num_prompts, group_size, num_kv_heads, num_heads // num_kv_heads)
    grouped = query.reshape(*by_key_head, head_dim).transpose(0, 1, 3, 2, 4, 5)
    grouped = grouped.reshape(parts, num_prompts, num_kv_heads, -1, head_dim)
    real = shelf.real
    batched = ((0, 1, 2, 3), (0, 1, 2, 3))
    of_owner = jax.vmap(lambda of_prompts, owner: of_prompts[owner])

    def blocks_first(x: Array) -> Array:
        return jnp.moveaxis(x, 1, 0)

    def some(number: int | Array, carry: tuple) -> tuple:
        output, peak, total = carry
        start = number * at_once
        owner = lax.dynamic_slice_in_dim(shelf.owner, start, at_once, axis=1)
        tokens = blocks_first(lax.dynamic_slice_in_dim(real, start, at_once, axis=1))
        key, value = read(start)
        asked = blocks_first(of_owner(grouped, owner))[:, :, None]
        asked = jnp.broadcast_to(asked, (*key.shape[:4], *asked.shape[4:]))
        scores = lax.dot_general(
            asked, key, (((5,), (5,)), batched), preferred_element_type=jnp.float32
        )
        places = jnp.arange(key.shape[4], dtype=jnp.int32)[None, None, None]
        seen = (places < tokens[..., None])[:, :, :, None, None]
        scores = jnp.where(seen, scores * head_dim**-0.5, MASKED)
        high = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - high)
        terms = lax.dot_general(
            weights.astype(value.dtype),
            value,
            (((5,), (4,)), batched),
            preferred_element_type=jnp.float32,
        )
        # From blocks to their prompts.
        owned = owner[..., None] == jnp.arange(num_prompts)[None, None]
        here = blocks_first(owned)[:, :, None, :, None, None, None]
        highest = jnp.where(here, high[:, :, :, None], MASKED).max(axis=0)
        new_peak = jnp.maximum(peak, highest)
        scale = jnp.exp(high - blocks_first(of_owner(jnp.moveaxis(new_peak, 2, 1), owner)))
        before = jnp.exp(peak - new_peak)

        def added(old: Array, new: Array) -> Array:
            of_prompts = jnp.einsum("awq,wazkgh->azqkgh", owned.astype(jnp.float32), new * scale)
            return old * before + of_prompts

        total = added(total, weights.sum(axis=-1, keepdims=True))
        return added(output, terms), new_peak, total

    shape = (parts, stretches, *grouped.shape[1:4])
    carry = (
        jnp.zeros((*shape, head_dim), jnp.float32),
        jnp.full((*shape, 1), MASKED, jnp.float32),
        jnp.zeros((*shape, 1), jnp.float32),
    )
    if num_blocks <= at_once:
        output, peak, total = some(0, carry)
    else:
        output, peak, total = lax.fori_loop(0, -(-shelf.used // at_once), some, carry)
    highest = peak.max(axis=1)
    scale = jnp.exp(peak - highest[:, None])
    output, total = ((x * scale).sum(axis=1) for x in (output, total))

    def seats_first(x: Array) -> Array:
        x = x.reshape(parts, num_prompts, num_kv_heads, group_size, -1, x.shape[-1])
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(*query.shape[:4], x.shape[-1])

    sums = seats_first(jnp.log(total) + highest)[..., 0]
    return seats_first(output / total).astype(query.dtype), sums


def attend_blocks(
    query: Float[Array, "A R N H"],
    prompt: tuple[Float[Array, "A R N H"], Float[Array, "A R N"]],
    read: Callable[[int | Int[Array, ""]], tuple[Array, Array]],
    num_blocks: int,
    steps: Int[Array, "#A #R"],
) -> Float[Array, "A R N H"]:
    """Attend to the tokens of each row, block by block, and to the row's prompt.

    Only the blocks that hold a token that some row sees are read. The softmax is that over all
    tokens: its sum is carried from block to block, as in flash attention (arXiv 2205.14135).

    Args:
      prompt: attention to the prompts, see `attend`.
      read: returns the keys and values [A, R, K, X, H] of a block by its number.
      steps: a row sees its tokens 0 to `steps`.
    """
    *batch, num_heads, head_dim = query.shape
    output, sums = prompt

    def block(number: int | Array, carry: tuple) -> tuple:
        output, peak, total = carry
        key, value = read(number)
        scores = lax.dot_general(
            grouped, key, (((4,), (4,)), batched), preferred_element_type=jnp.float32
        )
        places = number * key.shape[-2] + jnp.arange(key.shape[-2], dtype=jnp.int32)
        seen = (places[None, None] <= steps[..., None])[:, :, None, None]
        scores = jnp.where(seen, scores * head_dim**-0.5, MASKED)
        new_peak = jnp.maximum(peak, scores.max(axis=-1, keepdims=True))
        weights = jnp.exp(scores - new_peak)
        scale = jnp.exp(peak - new_peak)
        terms = lax.dot_general(
            weights.astype(value.dtype),
            value,
            (((4,), (3,)), batched),
            preferred_element_type=jnp.float32,
        )
        total = total * scale + weights.sum(axis=-1, keepdims=True)
        return output * scale + terms, new_peak, total

    num_kv_heads, size = read(0)[0].shape[2:4]
    batched = ((0, 1, 2), (0, 1, 2))
    by_key_head = (*batch, num_kv_heads, num_heads // num_kv_heads)
    grouped = query.reshape(*by_key_head, head_dim)
    # The prompt's part of the softmax comes first: its output has a total weight of 1.
    peak = sums.reshape(*by_key_head, 1)
    carry = (
        output.astype(jnp.float32).reshape(grouped.shape),
        peak,
        jnp.ones_like(peak),
    )
    carry = block(0, carry)
    if num_blocks > 1:
        carry = lax.fori_loop(1, steps.max() // size + 1, block, carry)
    output, _, total = carry
    return (output / total).astype(query.dtype).reshape(query.shape)


def merge(
    *parts: tuple[Float[Array, "*rows N H"], Float[Array, "*rows N"]],
) -> Float[Array, "*rows N H"]:
    """Combine attention over disjoint sets of keys into attention over all of them."""
    sums = jnp.stack([part_sum for _, part_sum in parts])
    weights = jax.nn.softmax(sums, axis=0)[..., None]
    terms = (
        weight * output.astype(jnp.float32)
        for weight, (output, _) in zip(weights, parts, strict=True)
    )
    return functools.reduce(jnp.add, terms).astype(parts[0][0].dtype)
