"""Sets of tokens as packed bits: token v is bit v % 32 of word v // 32."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

WORD = 32


def num_words(num_rows: int) -> int:
    """Return the number of words of a set of tokens below `num_rows`."""
    return -(-num_rows // WORD)


def bit_of(token: Int[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Return each token's bit, as a word."""
    return jnp.uint32(1) << (token % WORD).astype(jnp.uint32)


def single(token: int, num_rows: int) -> UInt32[np.ndarray, " words"]:
    """Return the set of one token."""
    return pack(np.arange(num_rows) == token)


def pack(members: Bool[np.ndarray, " V"]) -> UInt32[np.ndarray, " words"]:
    """Return the set of the flagged tokens, computed on the host."""
    padded = np.zeros(num_words(len(members)) * WORD, bool)
    padded[: len(members)] = members
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


def pack_flags(flags: Bool[Array, "*rows V"]) -> UInt32[Array, "*rows words"]:
    """Return the sets of the flagged tokens, computed on the device."""
    size = flags.shape[-1]
    padding = [(0, 0)] * (flags.ndim - 1) + [(0, num_words(size) * WORD - size)]
    bits = jnp.pad(flags, padding).reshape(*flags.shape[:-1], -1, WORD).astype(jnp.uint32)
    places = lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1)
    return (bits << places).sum(-1, dtype=jnp.uint32)


def tokens_of(
    tokens: Int[Array, "B S"], lengths: Int[Array, " B"], num_rows: int
) -> UInt32[Array, "B words"]:
    """Return the set of tokens that each padded sequence holds."""
    real = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
    batch = jnp.arange(tokens.shape[0])[:, None]
    flags = jnp.zeros((tokens.shape[0], num_rows), bool)
    flags = flags.at[batch, jnp.where(real, tokens, num_rows)].set(True, mode="drop")
    return pack_flags(flags)


def insert(
    words: UInt32[Array, "B G words"], token: Int[Array, "B G"]
) -> UInt32[Array, "B G words"]:
    """Add one token to each row's set."""
    place = (token // WORD)[..., None]
    word = jnp.take_along_axis(words, place, axis=-1)
    return jnp.put_along_axis(words, place, word | bit_of(token)[..., None], axis=-1, inplace=False)


def unpack(words: UInt32[Array, "*rows words"], num_rows: int) -> Bool[Array, "*rows V"]:
    """Return a flag for each token below `num_rows`."""
    places = lax.broadcasted_iota(jnp.uint32, (*words.shape, WORD), words.ndim)
    bits = words[..., None] >> places
    flags = (bits & 1).astype(bool)
    return flags.reshape(*words.shape[:-1], -1)[..., :num_rows]
