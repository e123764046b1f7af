"""Searches in a `SuffixIndex`: the places that a span agrees with, and how they go on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from decoding.arrays import AnyArray
from decoding.suffix_index import BLOCK, SharedIndex, SuffixIndex
from decoding.suffix_sort import BARRIER
from decoding.token_bits import WORD, bit_of

# Probes in one round of a search. On an accelerator a wide gather costs about as much as a narrow
# one, so a few wide rounds are faster than many narrow ones.
FANOUT = 16
# Branches that are read at once while next tokens are collected.
WINDOW = 128
# What a search reads: the index of each prompt, for its own rows, or of all prompts of a part.
Index = SuffixIndex | SharedIndex


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Locus:
    """The places that the spans of [B, R] rows may have come from.

    Suffixes [low, high) agree in their first `depth` tokens, and are none if low = high. Entries
    [first, last) are their branches, and are none if all suffixes go on with the same token.
    """

    low: Int[AnyArray, "*rows"]
    high: Int[AnyArray, "*rows"]
    depth: Int[AnyArray, "*rows"]
    first: Int[AnyArray, "*rows"]
    last: Int[AnyArray, "*rows"]


def root(index: Index, num_rows: int) -> Locus:
    """Return the locus before the first token of a span."""
    zeros = jnp.zeros((index.count.shape[0], num_rows), jnp.int32)
    # The root is the shallowest locus that begins at the first suffix, so its branches come last.
    last = index.entries("first_branch", zeros + 1)
    first = last - index.of_rows("root_branches")
    return Locus(zeros, zeros + index.of_rows("count"), zeros, first, last)


def _partition_point(
    below: Callable[[Array], Array], low: Int[Array, ""], high: Int[Array, ""], size: int
) -> Int[Array, ""]:
    """Return the first place of [low, high) at which `below` is false, or `high` if none is.

    `below` takes an array of places; it must be true up to some place and false from there on. The
    search takes ceil(log_FANOUT(size)) rounds of FANOUT probes.
    """
    stride = 1
    while stride * FANOUT <= size:
        stride *= FANOUT
    point = low
    steps = jnp.arange(1, FANOUT, dtype=jnp.int32)
    while stride >= 1:
        probes = point + steps * stride - 1
        passed = (probes < high) & below(jnp.minimum(probes, size - 1))
        point += stride * passed.sum(dtype=jnp.int32)
        stride //= FANOUT
    return point


def _next_token(index: Any, low: Int[Array, ""], depth: Int[Array, ""]) -> Int[Array, ""]:
    """Return the token after the first `depth` tokens of suffix `low` of one prompt."""
    size = index.text.shape[0]
    place = index.suffixes[jnp.minimum(low, size - 1)] + depth
    return jnp.where(place < size, index.text[jnp.minimum(place, size - 1)], BARRIER)


def descend(index: Index, locus: Locus, token: Int[Array, "B R"]) -> Locus:
    """Return the loci after one more copied token; empty if the token continues no match."""
    size = index.text.shape[-1]

    def one_row(index, locus, token):
        first, last = locus.first, locus.last
        branch = _partition_point(lambda e: index.branch_token[e] < token, first, last, size)
        stored = jnp.minimum(branch, size - 1)
        found = (branch < last) & (index.branch_token[stored] == token)

        def begin(branch):
            suffix = index.branch_suffix[jnp.minimum(branch, size - 1)]
            return jnp.where(branch < last, suffix, locus.high)

        at_head = (_next_token(index, locus.low, locus.depth) == token) & (locus.low < locus.high)
        low = jnp.where(at_head, locus.low, begin(branch))
        high = jnp.where(at_head, begin(first), begin(branch + 1))
        high = jnp.where(at_head | found, high, low)
        depth = locus.depth + 1

        place = jnp.minimum(low, size - 1)
        runs = index.first_branch[place], index.first_branch[place + 1]
        first, last = (
            _partition_point(lambda e, d=d: index.branch_depth[e] >= d, *runs, size)
            for d in (depth + 1, depth)
        )
        return Locus(low, high, depth, first, jnp.where(low < high, last, first))

    return index.each_row(one_row, locus, token)


def goes_on(index: Index, locus: Locus) -> Bool[Array, "B R"]:
    """Return whether some match goes on."""
    head = index.each_row(_next_token, locus.low, locus.depth)
    return (locus.low < locus.high) & ((head != BARRIER) | (locus.first < locus.last))


def first_next_tokens(
    index: Index, locus: Locus, limit: int
) -> tuple[Int[Array, "B R limit"], Bool[Array, "B R limit"]]:
    """Return up to `limit` distinct tokens that continue the match, and which are real."""
    size = index.text.shape[-1]

    def one_row(index, locus):
        branches = locus.first + jnp.arange(limit - 1, dtype=jnp.int32)
        others = index.branch_token[jnp.minimum(branches, size - 1)]
        head = _next_token(index, locus.low, locus.depth)
        tokens = jnp.concatenate([head[None], others])
        real = jnp.concatenate([(head != BARRIER)[None], branches < locus.last])
        return jnp.maximum(tokens, 0), real & (locus.low < locus.high)

    return index.each_row(one_row, locus)


def next_tokens(index: Index, locus: Locus, rows: Bool[Array, "B R"]) -> UInt32[Array, "B R words"]:
    """Return the tokens that continue the match of the rows in `rows`, as packed bits.

    The work is in proportion to their number, and at most WIDE a row. Other rows take no work and
    get empty sets.
    """
    size = index.text.shape[-1]
    rows = rows & (locus.low < locus.high)
    at_root = rows & (locus.depth == 0)
    # Slot 0 is the root's. Unused slots name a place that is not the first branch of any locus.
    match = index.of_rows("wide_branch") == locus.first[..., None]
    match &= (locus.first < locus.last)[..., None]
    stored = at_root | (rows & match.any(axis=-1))
    slot = jnp.where(at_root, 0, jnp.argmax(match, axis=-1))
    of_slot = index.entries("wide_tokens", slot)
    words = jnp.where(stored[..., None], of_slot, jnp.uint32(0))

    @jax.vmap
    @jax.vmap
    def add(words, token, real):
        place = jnp.where(real, token // WORD, words.shape[0])
        return words.at[place].add(bit_of(token), mode="drop")

    head = index.each_row(_next_token, locus.low, locus.depth)[..., None]
    words = add(words, head, (rows & ~at_root)[..., None] & (head != BARRIER))
    last = jnp.where(rows & ~stored, locus.last, locus.first)

    def read(carry):
        cursor, words = carry
        branches = cursor[..., None] + jnp.arange(WINDOW, dtype=jnp.int32)[None, None]
        token = index.entries("branch_token", jnp.minimum(branches, size - 1))
        return cursor + WINDOW, add(words, token, branches < last[..., None])

    def unfinished(carry):
        return (carry[0] < last).any()

    return lax.while_loop(unfinished, read, (locus.first, words))[1]


def may_close(index: Index, locus: Locus) -> Bool[Array, "B R"]:
    """Return whether a span may close after the `depth` >= 1 tokens that it has copied.

    It may if it may close at one of its places. Tables over blocks of suffixes keep the work at a
    few times BLOCK a row and level, for an interval of any width.
    """
    size = index.text.shape[-1]

    def one_row(index, locus):
        offset = locus.depth - 1

        def suffix_closes(suffix):
            place = index.suffixes[jnp.minimum(suffix, size - 1)] + offset
            return (place < size) & index.span_end[jnp.minimum(place, size - 1)]

        def block_closes(level):
            def closes(block):
                word = level[jnp.minimum(block, level.shape[0] - 1), offset // WORD]
                return (word >> (offset % WORD).astype(jnp.uint32)) & 1 == 1

            return closes

        levels = [suffix_closes, *(block_closes(level) for level in index.closing)]
        low, high = locus.low, locus.high
        closes = jnp.bool_(False)
        for number, entry_closes in enumerate(levels):
            window = jnp.arange(BLOCK, dtype=jnp.int32)
            # The entries before the first whole block and after the last one. On the top level one
            # window holds them all.
            starts = [low]
            if number < len(levels) - 1:
                starts.append(high // BLOCK * BLOCK)
            for start in starts:
                entries = jnp.maximum(start, low) + window
                real = entries < high
                closes |= (real & entry_closes(entries)).any()
            low, high = -(-low // BLOCK), high // BLOCK
        return closes

    return index.each_row(one_row, locus)
