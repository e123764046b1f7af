"""An index of the copyable text of each prompt, built and searched on the device.

The suffixes of a prompt at which a span may open are sorted. All places that a span of d copied
tokens may have been copied from are then one interval of that order: a *locus* (interval, d). If
its suffixes don't all go on with the same token, the interval *branches*. One table holds the
branches: the distinct next tokens of a locus, side by side, with the intervals that they lead to.
So collecting the allowed tokens takes work in proportion to their number, for an interval of any
width, and following one of them is a binary search. (The table holds the branching nodes of the
suffix tree, as arrays.)

A token that may not be copied is a barrier. It sorts before every token, and no match crosses it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from decoding.arrays import AnyArray
from decoding.prompts import Prompts
from decoding.suffix_sort import BARRIER, common_prefixes, prefix_ranks, previous_smaller
from decoding.token_bits import WORD, bit_of, num_words

# A locus with more next tokens than this has them stored as packed bits too.
WIDE = 1024
# Suffixes whose closing places one entry of the level above combines; a power of two.
BLOCK = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixIndex:
    """The suffixes and branches of B prompts.

    Memory: 24 bytes a prompt token, and V / 8 bytes for every WIDE tokens or part thereof.
    """

    # The prompt's tokens, with BARRIER for those that may not be copied.
    text: Int[AnyArray, "*B S"]
    # Start positions in sorted order. A span may open at the first `count` of them only.
    suffixes: Int[AnyArray, "*B S"]
    count: Int[AnyArray, "*B"]
    # Whether a span may close after a position.
    span_end: Bool[AnyArray, "*B S"]
    # Bit d - 1: whether a span may close after d tokens of some suffix of a block. A block holds
    # BLOCK suffixes, on the next level BLOCK blocks, and so on.
    closing: tuple[UInt32[AnyArray, "*B _ _"], ...]
    # Entries first_branch[i] to first_branch[i + 1] are the branches of the loci whose interval
    # begins at suffix i: the deepest locus first, and within a locus in the order of tokens. The
    # next token of a locus's first suffix has no entry. Unused entries have depth -1.
    first_branch: Int[AnyArray, "*B S+1"]
    branch_depth: Int[AnyArray, "*B S"]
    branch_token: Int[AnyArray, "*B S"]
    branch_suffix: Int[AnyArray, "*B S"]
    # The number of branches of the root, the locus before a span's first token.
    root_branches: Int[AnyArray, "*B"]
    # The sets of next tokens of wide loci, by the locus's first branch. The root's set, of the
    # tokens that a span may begin with, comes first, wide or not. Unused sets have branch S.
    wide_branch: Int[AnyArray, "*B wide"]
    wide_tokens: UInt32[AnyArray, "*B wide words"]

    def each_row(self, function: Callable, *fields: Any) -> Any:
        """Map a function of one prompt's index and of one row's values over [B, R] rows."""
        return jax.vmap(jax.vmap(function, in_axes=(None, *[0] * len(fields))))(self, *fields)

    def of_rows(self, name: str) -> Any:
        """Return a field for the rows of each prompt: [B, 1, ...]."""
        return getattr(self, name)[:, None]

    def entries(self, name: str, at: Int[Array, "B R *places"]) -> Any:
        """Return entries of a table for each row, at places of its prompt's table."""
        return jax.vmap(lambda table, at: table[at])(getattr(self, name), at)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SharedIndex:
    """The indices of the Q prompts of each part, and the prompt of each of the part's R rows.

    It answers for its rows as `SuffixIndex` does for those of each prompt.

    Attributes:
      index: fields [A, Q, ...].
    """

    index: SuffixIndex
    prompt: Int[AnyArray, "A R"]

    @property
    def count(self) -> Int[Array, "A Q"]:
        """The number of suffixes of each prompt on which a span may open."""
        return self.index.count

    @property
    def text(self) -> Int[Array, "A Q S"]:
        """The prompts' tokens, with BARRIER for those that may not be copied."""
        return self.index.text

    def each_row(self, function: Callable, *fields: Any) -> Any:
        """Map a function of one prompt's index and of one row's values over [A, R] rows."""

        def of_part(index: SuffixIndex, prompt: Array, *fields: Any) -> Any:
            def of_row(number: Array, *values: Any) -> Any:
                return function(_OnePrompt(index, number), *values)

            return jax.vmap(of_row)(prompt, *fields)

        return jax.vmap(of_part)(self.index, self.prompt, *fields)

    def of_rows(self, name: str) -> Any:
        """Return a field for each row: [A, R, ...]."""
        return jax.vmap(lambda of_part, prompt: of_part[prompt])(
            getattr(self.index, name), self.prompt
        )

    def entries(self, name: str, at: Int[Array, "A R *places"]) -> Any:
        """Return entries of a table for each row, at places of its prompt's table."""
        number = jnp.expand_dims(self.prompt, range(2, at.ndim))
        return jax.vmap(lambda table, number, at: table[number, at])(
            getattr(self.index, name), number, at
        )

    def insert(self, slot: Int[Array, ""], other: "SharedIndex") -> "SharedIndex":
        """Return the index with prompt `slot` replaced by the one prompt of `other`."""

        def put(into: Array, one: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(into, one, slot, axis=1)

        return SharedIndex(jax.tree.map(put, self.index, other.index), self.prompt)

    def keep(self, rows: Int[Array, "A R"]) -> "SharedIndex":
        """Return the index for some rows of each part."""
        return SharedIndex(self.index, jax.vmap(lambda prompt, at: prompt[at])(self.prompt, rows))


def in_parts(index: SuffixIndex, parts: int, group_size: int) -> SharedIndex:
    """Return the index of B prompts as that of equal parts, with G rows a prompt."""
    num_prompts = index.count.shape[0] // parts
    prompt = jnp.arange(num_prompts * group_size, dtype=jnp.int32) // group_size
    of_parts = jax.tree.map(lambda x: x.reshape(parts, num_prompts, *x.shape[1:]), index)
    return SharedIndex(of_parts, jnp.broadcast_to(prompt[None], (parts, prompt.size)))


class _OnePrompt:
    """A prompt's part of an index: entries are read where they lie, and no table is sliced."""

    def __init__(self, index: SuffixIndex, number: Array):
        self._index, self._number = index, number

    def __getattr__(self, name: str) -> Any:
        return jax.tree.map(lambda table: _Table(table, self._number), getattr(self._index, name))


@dataclasses.dataclass(frozen=True)
class _Table:
    table: Any
    number: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.shape[1:]

    def __getitem__(self, at: Any) -> Array:
        return self.table[(self.number, *at) if isinstance(at, tuple) else (self.number, at)]


def build_index(
    prompts: Prompts, *, num_rows: int, max_length: int, barriers: tuple[int, ...] = ()
) -> SuffixIndex:
    """Index each prompt, in at most ceil(log2(max_length)) + 2 sorts.

    Args:
      prompts: B prompts of S tokens.
      num_rows: V, the rows of the vocabulary.
      max_length: the longest span; suffixes that agree in as many tokens are in any order.
      barriers: token ids that are never copied, even if flagged as copyable.

    Returns:
      The index; `count` is 0 for prompts at which no span may open.
    """
    positions = jnp.arange(prompts.tokens.shape[1], dtype=jnp.int32)
    inside = positions[None] < prompts.lengths[:, None]
    copyable = prompts.copyable & inside
    for token in barriers:
        copyable &= prompts.tokens != token
    text = jnp.where(copyable, prompts.tokens, BARRIER).astype(jnp.int32)
    may_open = copyable & prompts.span_start

    def one_prompt(text, may_open, span_end):
        levels = prefix_ranks(text, max_length)
        last = jnp.int32(jnp.iinfo(jnp.int32).max)
        key = jnp.where(may_open, levels[-1], last)
        suffixes = lax.sort((key, positions), num_keys=1, is_stable=False)[1]
        count = may_open.sum(dtype=jnp.int32)
        shared = common_prefixes(levels, suffixes[:-1], suffixes[1:])
        shared = jnp.concatenate([jnp.full(1, -1, jnp.int32), jnp.minimum(shared, max_length)])
        shared = jnp.where(positions < count, shared, -1)
        closing = _closing(suffixes, count, span_end, max_length)
        branches = _branches(text, suffixes, shared, max_length)
        wide = _wide_tokens(text, suffixes, count, branches, num_rows)
        root_branches = (branches[1] == 0).sum(dtype=jnp.int32)
        return suffixes, count, closing, *branches, root_branches, *wide

    span_end = prompts.span_end & copyable
    suffixes, count, *rest = jax.vmap(one_prompt)(text, may_open, span_end)
    return SuffixIndex(text, suffixes, count, span_end, *rest)


def _branches(
    text: Int[Array, " S"], suffixes: Int[Array, " S"], shared: Int[Array, " S"], max_length: int
) -> tuple[Int[Array, " S1"], Int[Array, " S"], Int[Array, " S"], Int[Array, " S"]]:
    """Return the table of branches, given how many tokens each suffix shares with the one before.

    A suffix that shares d < `max_length` tokens with its predecessor is a branch. It belongs to the
    locus of depth d whose interval begins at the nearest suffix to the left that shares fewer
    tokens with its own predecessor. Loci with the same beginning are nested, and the branches of
    deeper ones are further left. So a sort by (beginning, suffix) puts each locus's branches side
    by side.
    """
    size = text.shape[0]
    places = jnp.arange(size, dtype=jnp.int32)
    begins = jnp.where((shared >= 0) & (shared < max_length), previous_smaller(shared), size)
    begins, suffix = lax.sort((begins, places), num_keys=2, is_stable=False)
    counts = jnp.zeros(size, jnp.int32).at[begins].add(1, mode="drop")
    first_branch = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts)])
    depth = jnp.where(begins < size, shared[suffix], -1)
    token = text[jnp.minimum(suffixes[suffix] + depth, size - 1)]
    return first_branch, depth.astype(jnp.int16), token, suffix


def _wide_tokens(
    text: Int[Array, " S"],
    suffixes: Int[Array, " S"],
    count: Int[Array, ""],
    branches: tuple,
    num_rows: int,
) -> tuple[Int[Array, " wide"], UInt32[Array, "wide words"]]:
    """Return the root and the loci with more than WIDE branches, with their tokens as bits."""
    first_branch, depth, token, _ = branches
    size = text.shape[0]
    num_wide = 1 + size // (WIDE + 1)
    places = jnp.arange(size, dtype=jnp.int32)
    total = first_branch[-1]
    is_first = jnp.zeros(size, bool).at[first_branch[:-1]].set(True, mode="drop")
    is_first = is_first.at[1:].set(is_first[1:] | (depth[1:] != depth[:-1])) & (places < total)
    first_of = lax.cummax(jnp.where(is_first, places, 0))
    following = lax.cummin(jnp.where(is_first, places, size), reverse=True)
    following = jnp.concatenate([following[1:], jnp.full(1, size, jnp.int32)])
    # The branches at depth 0 are the root's.
    is_root = depth == 0
    is_wide = is_first & (jnp.minimum(following, total) - places > WIDE) & ~is_root
    number = jnp.cumsum(is_wide, dtype=jnp.int32)
    wide_branch = jnp.full(num_wide, size, jnp.int32)
    wide_branch = wide_branch.at[jnp.where(is_wide, number, num_wide)].set(places, mode="drop")

    slot = jnp.where(is_wide[first_of] & (places < total), number[first_of], num_wide)
    slot = jnp.where(is_root, 0, slot)
    tokens = jnp.zeros((num_wide, num_words(num_rows)), jnp.uint32)
    # A token occurs only once in a locus, so adding bits sets them.
    tokens = tokens.at[slot, token // WORD].add(bit_of(token), mode="drop")
    opener = jnp.maximum(text[suffixes[0]], 0)
    opening = jnp.where(count > 0, bit_of(opener), jnp.uint32(0))
    return wide_branch, tokens.at[0, opener // WORD].add(opening, mode="drop")


def _closing(
    suffixes: Int[Array, " S"], count: Int[Array, ""], span_end: Bool[Array, " S"], max_length: int
) -> tuple[UInt32[Array, "blocks words"], ...]:
    """Return the depths at which spans may close in blocks of suffixes, and in blocks of blocks."""
    size = suffixes.shape[0]
    # Bit j of ahead[p] is span_end[p + j].
    ahead = span_end.astype(jnp.uint32)
    for width in (1, 2, 4, 8, 16):
        moved = jnp.concatenate([ahead[width:], jnp.zeros(min(width, size), jnp.uint32)])[:size]
        ahead |= moved << width
    places = suffixes[:, None] + WORD * jnp.arange(num_words(max_length))[None]
    real = (places < size) & (jnp.arange(size) < count)[:, None]
    entries = jnp.where(real, ahead[jnp.minimum(places, size - 1)], 0)
    levels: list[Array] = []
    while entries.shape[0] > BLOCK or not levels:
        num_blocks = -(-entries.shape[0] // BLOCK)
        padded = jnp.pad(entries, ((0, num_blocks * BLOCK - entries.shape[0]), (0, 0)))
        blocks = padded.reshape(num_blocks, BLOCK, -1)
        # Halve until one is left: not every backend can reduce by "or" over devices.
        while blocks.shape[1] > 1:
            half = blocks.shape[1] // 2
            blocks = blocks[:, :half] | blocks[:, half:]
        entries = blocks[:, 0]
        levels.append(entries)
    return tuple(levels)
