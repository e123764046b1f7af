"""An index of what may be copied from each prompt, built and searched on the device.

The suffixes of a prompt that a span may open on are sorted. All the places where a span that has
copied d tokens may have come from are then one interval of that order, a *locus* (interval, d).
Where the next token is not the same for all of them the interval *branches*: its distinct next
tokens, with the intervals that they lead to, stand side by side in one table, so that naming the
allowed tokens takes work in proportion to their number, whatever the interval's width, and taking
one of them is a binary search. (The table is the suffix tree's branching nodes, in arrays.)

A token that may not be copied is a barrier: it sorts before every token, and no match runs across
it.
"""

import dataclasses

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
# Suffixes whose closing places are summed up in one entry of the level above; a power of two.
BLOCK = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixIndex:
    """The suffixes and branches of B prompts.

    Memory: 24 bytes a prompt token and V / 8 bytes for every WIDE tokens or part of them.
    """

    # The prompt's tokens, BARRIER where they may not be copied.
    text: Int[AnyArray, "*B S"]
    # Start positions in sorted order; only the first `count` are places where a span may open.
    suffixes: Int[AnyArray, "*B S"]
    count: Int[AnyArray, "*B"]
    # Whether a span may close after a position.
    span_end: Bool[AnyArray, "*B S"]
    # Bit d - 1: whether some suffix of a block may close after d tokens; blocks of BLOCK suffixes,
    # then of BLOCK blocks, and so on.
    closing: tuple[UInt32[AnyArray, "*B _ _"], ...]
    # Branches. Those of loci whose interval begins at suffix i are entries first_branch[i] to
    # first_branch[i + 1], the deepest locus first, each locus's in the order of their tokens. A
    # locus's first next token, that of its first suffix, is not among them. Unused entries have
    # depth -1.
    first_branch: Int[AnyArray, "*B S+1"]
    branch_depth: Int[AnyArray, "*B S"]
    branch_token: Int[AnyArray, "*B S"]
    branch_suffix: Int[AnyArray, "*B S"]
    # Branches of the root, the locus before a span's first token.
    root_branches: Int[AnyArray, "*B"]
    # Next tokens of wide loci, by the locus's first branch. The first of these sets is the root's,
    # the tokens that may open a span, however many; the unused ones are at branch S.
    wide_branch: Int[AnyArray, "*B wide"]
    wide_tokens: UInt32[AnyArray, "*B wide words"]


def build_index(
    prompts: Prompts, *, num_rows: int, max_length: int, barriers: tuple[int, ...] = ()
) -> SuffixIndex:
    """Index each prompt, in at most ceil(log2(max_length)) + 2 sorts.

    Args:
      prompts: B prompts of S tokens.
      num_rows: V, the rows of the vocabulary.
      max_length: the longest span; suffixes that agree that far are left in any order.
      barriers: token ids that are never copied, whatever the mask says.

    Returns:
      The index; prompts without a place to open a span have `count` 0.
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
    """Return the table of branches from the tokens that each suffix shares with the one before.

    A branch is a suffix that shares fewer than `max_length` tokens with its predecessor. It belongs
    to the locus whose depth is their number and whose interval begins at the nearest suffix to the
    left that shares fewer with its own predecessor. Of one beginning, deeper loci are nested in
    shallower ones and their branches stand further left: so a sort by (beginning, suffix) puts each
    locus's branches side by side.
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
    """Return the loci with more than WIDE branches, and the root, with their tokens as bits."""
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
    # The root's branches are those at depth 0.
    is_root = depth == 0
    is_wide = is_first & (jnp.minimum(following, total) - places > WIDE) & ~is_root
    number = jnp.cumsum(is_wide, dtype=jnp.int32)
    wide_branch = jnp.full(num_wide, size, jnp.int32)
    wide_branch = wide_branch.at[jnp.where(is_wide, number, num_wide)].set(places, mode="drop")

    slot = jnp.where(is_wide[first_of] & (places < total), number[first_of], num_wide)
    slot = jnp.where(is_root, 0, slot)
    tokens = jnp.zeros((num_wide, num_words(num_rows)), jnp.uint32)
    # No token occurs twice in a locus, so adding bits sets them.
    tokens = tokens.at[slot, token // WORD].add(bit_of(token), mode="drop")
    opener = jnp.maximum(text[suffixes[0]], 0)
    opening = jnp.where(count > 0, bit_of(opener), jnp.uint32(0))
    return wide_branch, tokens.at[0, opener // WORD].add(opening, mode="drop")


def _closing(
    suffixes: Int[Array, " S"], count: Int[Array, ""], span_end: Bool[Array, " S"], max_length: int
) -> tuple[UInt32[Array, "blocks words"], ...]:
    """Return for blocks of suffixes, and blocks of blocks, the depths at which one may close."""
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
        # Halved until one is left: not every backend can reduce by "or" over devices.
        while blocks.shape[1] > 1:
            half = blocks.shape[1] // 2
            blocks = blocks[:, :half] | blocks[:, half:]
        entries = blocks[:, 0]
        levels.append(entries)
    return tuple(levels)
