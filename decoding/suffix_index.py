"""A suffix array over the copyable part of each prompt, built and searched on the device.

The suffixes of a prompt are sorted by their first `max_length` tokens. All the places where a span
that has copied d tokens may have come from are then one interval of that order, and copying one
more token narrows the interval by a search at depth d. A token that may not be copied is a barrier:
it sorts before every token and never equals one, so no match runs across it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from decoding.arrays import AnyArray
from decoding.prompts import Prompts

BARRIER = -1
# Probes of one round of the interval search: one wide gather costs an accelerator about as much as
# a narrow one, so few wide rounds beat many narrow ones.
FANOUT = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixIndex:
    """The suffix arrays of B prompts.

    Memory: 9 bytes a prompt token, and one byte a vocabulary entry and prompt.
    """

    # The prompt's tokens, BARRIER where they may not be copied.
    text: Int[AnyArray, "B S"]
    # Start positions in sorted order; only the first `count` are places where a span may open.
    suffixes: Int[AnyArray, "B S"]
    count: Int[AnyArray, " B"]
    # Whether a span may close after a position.
    span_end: Bool[AnyArray, "B S"]
    # Whether some span opens with a vocabulary entry.
    openers: Bool[AnyArray, "B V"]


def build_index(
    prompts: Prompts, *, num_rows: int, max_length: int, barriers: tuple[int, ...] = ()
) -> SuffixIndex:
    """Sort the suffixes of each prompt by prefix doubling, in ceil(log2(max_length)) sorts.

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

    suffixes = jax.vmap(lambda t, o: _sorted_suffixes(t, o, max_length))(text, may_open)
    rows = jnp.arange(text.shape[0])[:, None]
    openers = jnp.zeros((text.shape[0], num_rows), bool)
    openers = openers.at[rows, jnp.where(may_open, text, num_rows)].set(True, mode="drop")
    return SuffixIndex(
        text=text,
        suffixes=suffixes,
        count=may_open.sum(axis=1, dtype=jnp.int32),
        span_end=prompts.span_end & copyable,
        openers=openers,
    )


def _sorted_suffixes(
    text: Int[Array, " S"], may_open: Bool[Array, " S"], max_length: int
) -> Int[Array, " S"]:
    size = text.shape[0]
    positions = jnp.arange(size, dtype=jnp.int32)
    # rank[i] orders the suffix at i by its first `width` tokens; 0 is the barrier. Past a barrier
    # the order is arbitrary, which is harmless: no search ever looks there.
    rank = text - BARRIER
    width = 1
    while width < max_length:
        tail = jnp.concatenate([rank[width:], jnp.zeros(min(width, size), rank.dtype)])[:size]
        first, second, order = lax.sort((rank, tail, positions), num_keys=2)
        differs = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        sorted_rank = jnp.concatenate([jnp.ones(1, jnp.int32), 1 + jnp.cumsum(differs)])
        rank = jnp.zeros_like(rank).at[order].set(sorted_rank, unique_indices=True)
        # The barrier keeps rank 0 in every round, so that suffixes cut off at it compare equal.
        rank = jnp.where(text == BARRIER, 0, rank)
        width *= 2
    last = jnp.int32(jnp.iinfo(jnp.int32).max)
    return lax.sort((jnp.where(may_open, rank, last), positions), num_keys=1)[1]


def tokens_at(
    index: SuffixIndex, entries: Int[Array, "B *rows"], depth: Int[Array, "B *rows"]
) -> Int[Array, "B *rows"]:
    """Return the token `depth` tokens after the start of suffix-array entries; BARRIER past S."""
    size = index.text.shape[1]

    def one_prompt(text, suffixes, entry, offset):
        position = suffixes[jnp.clip(entry, 0, size - 1)] + offset
        return jnp.where(position < size, text[jnp.clip(position, 0, size - 1)], BARRIER)

    return jax.vmap(one_prompt)(index.text, index.suffixes, entries, depth)


def narrow(
    index: SuffixIndex,
    low: Int[Array, "B R"],
    high: Int[Array, "B R"],
    depth: Int[Array, "B R"],
    token: Int[Array, "B R"],
) -> tuple[Int[Array, "B R"], Int[Array, "B R"]]:
    """Narrow the intervals [low, high) to the suffixes with `token` at `depth`.

    Both bounds are found together, FANOUT probes a round, in ceil(log_FANOUT(S)) rounds.

    Returns:
      The new bounds; equal where no suffix of the interval continues with the token.
    """
    size = index.text.shape[1]
    # Counting the entries below `token` gives the new low, those below `token + 1` the new high.
    threshold = jnp.stack([token, token + 1], axis=-1)
    bound = jnp.stack([low, low], axis=-1)
    stride = 1
    while stride * FANOUT < size + 1:
        stride *= FANOUT
    steps = jnp.arange(1, FANOUT, dtype=jnp.int32)[None, None, None]
    while stride >= 1:
        probes = bound[..., None] + steps * stride - 1
        depths = jnp.broadcast_to(depth[..., None, None], probes.shape)
        below = tokens_at(index, probes, depths) < threshold[..., None]
        below &= probes < high[..., None, None]
        bound = bound + stride * below.sum(axis=-1, dtype=jnp.int32)
        stride //= FANOUT
    return bound[..., 0], bound[..., 1]
