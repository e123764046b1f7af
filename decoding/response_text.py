"""Copying from the response itself, for `copy_source = "prompt+response"`.

Each row has a window: the last `max_length` tokens of the prompt, then the response. A place of the
window matches if the tokens before it are those that the open span has copied. With every token
copied, all places are compared, so a match may run from the prompt into the response. The suffix
index finds the matches that end in the prompt too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from decoding.arrays import AnyArray
from decoding.prompts import Prompts
from decoding.suffix_index import SuffixIndex
from decoding.suffix_sort import BARRIER
from decoding.token_bits import num_words, pack_flags, unpack

# Bits of one byte that say how a vocabulary entry begins and ends: it begins a new unit (such as a
# character); its first character belongs to a word; its last character does.
BEGINS, WORD_FIRST, WORD_LAST = 1, 2, 4


@dataclasses.dataclass(frozen=True)
class TextRules:
    """How the tokens of responses make text that spans may copy; static.

    Attributes:
      tail: the most tokens of the prompt's end that a match may begin in: the longest span.
      vocab_size: the tokenizer's size; ids from it on can't be copied.
      barriers: ids below it that can't be copied.
      edges: a byte a vocabulary entry: how it begins and ends, as bits.
    """

    tail: int
    vocab_size: int
    barriers: tuple[int, ...]
    edges: bytes

    def copyable(self, token: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        """Return which tokens may be copied."""
        copyable = ~np.isin(np.arange(self.vocab_size), self.barriers)
        known = (token >= 0) & (token < self.vocab_size)
        return known & jnp.asarray(copyable)[token]

    def boundary(
        self, before: Int[Array, "*shape"], after: Int[Array, "*shape"]
    ) -> Bool[Array, "*shape"]:
        """Return whether a unit begins between two tokens."""
        table = jnp.asarray(np.frombuffer(self.edges, np.uint8))
        before, after = table[before], table[after]
        in_word = ((before & WORD_LAST) > 0) & ((after & WORD_FIRST) > 0)
        return ((after & BEGINS) > 0) & ~in_word


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ResponseText:
    """The windows of [B, R] rows, X = max_length + T places each."""

    # BARRIER where a token may not be copied, and where there is none yet.
    tokens: Int[AnyArray, "B R X"]
    # Whether a span may open at a place, and whether it may close after a place.
    opens: Bool[AnyArray, "B R X"]
    closes: Bool[AnyArray, "B R X"]
    # The newest token.
    newest: Int[AnyArray, "B R"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matches:
    """The places of the window that follow a match of a row's open span, as packed bits."""

    places: UInt32[AnyArray, "*rows words"]
    # The place of the next token.
    position: Int[AnyArray, "*rows"]


def empty_text(
    prompts: Prompts, index: SuffixIndex, group_size: int, capacity: int, *, tail: int
) -> ResponseText:
    """Return the windows before the first token of G responses of at most `capacity` tokens.

    Args:
      tail: the most tokens of the prompt that a match may begin in: the longest span.
    """
    places = prompts.lengths[:, None] - tail + jnp.arange(tail, dtype=jnp.int32)[None]
    rows = jnp.arange(places.shape[0])[:, None]
    last = prompts.tokens[rows[:, 0], jnp.maximum(prompts.lengths - 1, 0)].astype(jnp.int32)

    def window(field, fill):
        of_prompt = jnp.where(places >= 0, field[rows, jnp.maximum(places, 0)], fill)
        padded = jnp.pad(of_prompt, ((0, 0), (0, capacity)), constant_values=fill)
        return jnp.broadcast_to(padded[:, None], (padded.shape[0], group_size, padded.shape[1]))

    return ResponseText(
        tokens=window(index.text, BARRIER),
        opens=window((index.text != BARRIER) & prompts.span_start, False),
        closes=window(index.span_end, False),
        newest=jnp.broadcast_to(last[:, None], (last.shape[0], group_size)),
    )


def append(
    text: ResponseText, token: Int[Array, "B R"], position: Int[Array, "B R"], rules: TextRules
) -> ResponseText:
    """Return the windows with one more token; past their end they stay as they are."""
    batch, row = jnp.arange(token.shape[0])[:, None], jnp.arange(token.shape[1])[None]
    boundary = rules.boundary(text.newest, token)
    copied = jnp.where(rules.copyable(token), token, BARRIER)
    # Whether a span may close after the prompt's last token is decided by the prompt.
    before = jnp.where(position > rules.tail, position - 1, text.tokens.shape[-1])
    return ResponseText(
        tokens=jnp.asarray(text.tokens).at[batch, row, position].set(copied, mode="drop"),
        opens=jnp.asarray(text.opens).at[batch, row, position].set(boundary, mode="drop"),
        closes=jnp.asarray(text.closes).at[batch, row, before].set(boundary, mode="drop"),
        newest=token,
    )


def whole_text(
    prompts: Prompts, index: SuffixIndex, responses: Int[Array, "B G T"], rules: TextRules
) -> ResponseText:
    """Return the windows after the last token of given responses."""
    text = empty_text(prompts, index, responses.shape[1], responses.shape[2], tail=rules.tail)
    before = jnp.concatenate([text.newest[..., None], responses[..., :-1]], axis=-1)
    boundary = rules.boundary(before, responses)
    copied = jnp.where(rules.copyable(responses), responses, BARRIER)
    return ResponseText(
        tokens=jnp.asarray(text.tokens).at[..., rules.tail :].set(copied),
        opens=jnp.asarray(text.opens).at[..., rules.tail :].set(boundary),
        closes=jnp.asarray(text.closes).at[..., rules.tail : -1].set(boundary[..., 1:]),
        newest=responses[..., -1],
    )


def no_matches(shape: tuple[int, ...], window: int, *, tail: int) -> Matches:
    """Return the matches of rows before their first token, in windows of `window` places."""
    words = jnp.zeros((*shape, num_words(window)), jnp.uint32)
    return Matches(words, jnp.full(shape, tail, jnp.int32))


def _places(matches: Matches, text: ResponseText) -> Bool[Array, "B R X"]:
    return unpack(matches.places, text.tokens.shape[-1])


def move(
    matches: Matches,
    text: ResponseText,
    token: Int[Array, "B R"],
    opens: Bool[Array, "B R"],
    copies: Bool[Array, "B R"],
) -> Matches:
    """Return the matches after `token`, which opens a span, or is copied, or does neither.

    A span that opens may begin at any place before its start token. The start token is a barrier,
    so no match runs into the span itself.
    """
    window = lax.broadcasted_iota(jnp.int32, text.tokens.shape, 2)
    begins = text.opens & (text.tokens != BARRIER) & (window < matches.position[..., None])
    goes_on = _places(matches, text) & (text.tokens == token[..., None])
    goes_on = jnp.concatenate([jnp.zeros_like(goes_on[..., :1]), goes_on[..., :-1]], axis=-1)
    moved = pack_flags(jnp.where(opens[..., None], begins, goes_on))
    places = jnp.where((opens | copies)[..., None], moved, matches.places)
    return Matches(places, matches.position + 1)


def stay(matches: Matches) -> Matches:
    """Return the matches after a token by which no row opens a span or copies."""
    return dataclasses.replace(matches, position=matches.position + 1)


def may_open(matches: Matches, text: ResponseText) -> Bool[Array, "B R"]:
    """Return whether a span could open now at some place."""
    window = lax.broadcasted_iota(jnp.int32, text.tokens.shape, 2)
    before = window < matches.position[..., None]
    return (before & text.opens & (text.tokens != BARRIER)).any(axis=-1)


def may_close(matches: Matches, text: ResponseText) -> Bool[Array, "B R"]:
    """Return whether a span that has copied something may close here."""
    closes = jnp.concatenate([jnp.zeros_like(text.closes[..., :1]), text.closes[..., :-1]], axis=-1)
    return (_places(matches, text) & closes).any(axis=-1)


def goes_on(matches: Matches, text: ResponseText) -> Bool[Array, "B R"]:
    """Return whether some match goes on."""
    return (_places(matches, text) & (jnp.asarray(text.tokens) != BARRIER)).any(axis=-1)


def count_matches(matches: Matches, text: ResponseText) -> Int[Array, "B R *time"]:
    """Return how many matches go on, now or before each token of responses."""
    real = pack_flags(jnp.asarray(text.tokens) != BARRIER)
    real = jnp.expand_dims(real, range(2, matches.places.ndim - 1))
    return lax.population_count(jnp.asarray(matches.places) & real).sum(-1).astype(jnp.int32)


def first_next_tokens(
    matches: Matches, text: ResponseText, limit: int
) -> tuple[Int[Array, "B R limit"], Bool[Array, "B R limit"]]:
    """Return the tokens that continue the first matches, and which of them are real.

    A token that continues several matches is returned several times.
    """
    going = _places(matches, text) & (text.tokens != BARRIER)
    size = going.shape[-1]
    place = lax.broadcasted_iota(jnp.int32, going.shape, 2)
    found, at = lax.top_k(jnp.where(going, size - place, 0), limit)
    return jnp.take_along_axis(jnp.asarray(text.tokens), at, axis=-1), found > 0


def next_tokens(
    matches: Matches, text: ResponseText, rows: Bool[Array, "B R"], num_rows: int
) -> UInt32[Array, "B R words"]:
    """Return the tokens that continue the match of some rows, as packed bits."""
    real = rows[..., None] & _places(matches, text) & (text.tokens != BARRIER)

    @jax.vmap
    @jax.vmap
    def flagged(tokens, real):
        flags = jnp.zeros(num_rows, bool)
        return flags.at[jnp.where(real, tokens, num_rows)].set(True, mode="drop")

    return pack_flags(flagged(text.tokens, real))
