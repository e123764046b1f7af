"""Sorting the suffixes of one token sequence on the device, and how many tokens neighbours share.

Prefix doubling: sorting pairs of ranks by w tokens gives ranks by the first 2w tokens, so
ceil(log2(max_length)) sorts are enough, and fewer if the text repeats little. A barrier has rank 0,
and everything after a barrier counts as equal: no match reads past it.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

BARRIER = -1


def prefix_ranks(text: Int[Array, " S"], max_length: int) -> Int[Array, "levels S"]:
    """Rank every suffix by its first 1, 2, 4, … tokens, up to `max_length` or more.

    Args:
      text: tokens, BARRIER where a match must stop.

    Returns:
      Ranks by the first 2**k tokens in row k. Two ranks are equal exactly if these tokens, up to a
      barrier, are equal. Ranks are ordered as the tokens are, and 0 at a barrier.
    """
    size = text.shape[0]
    num_rounds = math.ceil(math.log2(max_length)) if max_length > 1 else 0
    positions = jnp.arange(size, dtype=jnp.int32)
    # The number of tokens before the next barrier.
    next_barrier = lax.cummin(jnp.where(text == BARRIER, positions, size), reverse=True)
    run = next_barrier - positions

    def unfinished(carry):
        number, tied, _ = carry
        return tied & (number < num_rounds)

    def double(carry):
        number, _, levels = carry
        rank, width = levels[number], 1 << number
        tail = rank[jnp.minimum(positions + width, size - 1)]
        tail = jnp.where(run > width, tail, 0)
        first, second, order = lax.sort((rank, tail, positions), num_keys=2)
        same = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
        # Suffixes that are equal up to a barrier stay tied.
        tied = (same & (run[order[1:]] >= 2 * width)).any()
        ranks = jnp.concatenate([jnp.ones(1, jnp.int32), 1 + jnp.cumsum(~same, dtype=jnp.int32)])
        rank = jnp.zeros_like(rank).at[order].set(ranks, unique_indices=True)
        rank = jnp.where(text == BARRIER, 0, rank)
        # Once nothing is tied, ranks by more tokens are the same, so they fill the other rows.
        later = jnp.arange(num_rounds + 1)[:, None] > number
        return number + 1, tied, jnp.where(later, rank[None], levels)

    levels = jnp.broadcast_to((text - BARRIER).astype(jnp.int32), (num_rounds + 1, size))
    return lax.while_loop(unfinished, double, (jnp.int32(0), jnp.bool_(True), levels))[2]


def common_prefixes(
    levels: Int[Array, "levels S"], first: Int[Array, " n"], second: Int[Array, " n"]
) -> Int[Array, " n"]:
    """Return how many tokens pairs of suffixes share, up to 2**(levels - 1).

    Two suffixes that share more tokens, or everything up to a barrier, may count as sharing more.
    """
    size = levels.shape[1]
    shared = jnp.zeros_like(first)
    for number in reversed(range(levels.shape[0])):

        def rank(start, ranks=levels[number], shared=shared):
            place = start + shared
            return jnp.where(place < size, ranks[jnp.minimum(place, size - 1)], 0)

        shared += jnp.where(rank(first) == rank(second), 1 << number, 0)
    return shared


def previous_smaller(values: Int[Array, " n"]) -> Int[Array, " n"]:
    """Return for each place the nearest place to its left with a smaller value, or -1.

    Search by jumps of halving length over minima of blocks: O(n log n) work, no loop over places.
    """
    size = values.shape[0]
    places = jnp.arange(size, dtype=jnp.int32)
    # minima[k][i] is the smallest of the 2**k values that end at place i.
    minima = [values]
    while 1 << len(minima) <= size:
        width = 1 << (len(minima) - 1)
        last = minima[-1]
        lowest = jnp.iinfo(values.dtype).min
        before = jnp.concatenate([jnp.full(width, lowest, values.dtype), last[:-width]])
        minima.append(jnp.minimum(last, before))
    found = places - 1
    for number in reversed(range(len(minima))):
        skips = (found >= 0) & (minima[number][jnp.maximum(found, 0)] >= values)
        found = jnp.where(skips, found - (1 << number), found)
    return found
