"""Choosing a token from logits: greedy, temperature, top-k and top-p, without a sort."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key

from decoding.arrays import AnyArray
from decoding.errors import DecodingInputError

# Tokens whose weights are summed first when one is drawn: about the square root of a vocabulary.
BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; static.

    Attributes:
      temperature: 0 is greedy.
      top_k: keep the k most likely tokens, 0 keeps all.
      top_p: keep the fewest most likely tokens with this much probability, 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.temperature < 0:
            raise DecodingInputError(
                f"temperature {self.temperature} is negative; use 0 for greedy, or above 0"
            )
        if self.top_k < 0:
            raise DecodingInputError(f"top_k {self.top_k} is negative; use 0 to keep all tokens")
        if not 0 < self.top_p <= 1:
            raise DecodingInputError(
                f"top_p {self.top_p} must lie in (0, 1]; use 1 to keep all tokens"
            )


def row_keys(
    seed: int | Int[Array, ""],
    step: int | Int[Array, ""],
    example_ids: Integer[AnyArray, " B"],
    group_size: int,
) -> Key[Array, "B G"]:
    """Return a key a row, folded from (seed, step, example id, continuation).

    What is sampled for a prompt then depends on nothing else in its batch and on no restart.
    """
    base = jax.random.fold_in(jax.random.key(seed), step)

    def one_prompt(example_id):
        key = jax.random.fold_in(base, example_id)
        return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(group_size))

    return jax.vmap(one_prompt)(example_ids)


def sample(
    logits: Float[Array, "B G V"], keys: Key[Array, "B G"], sampling: Sampling
) -> tuple[Int[Array, "B G"], Float[Array, "B G"]]:
    """Draw a token a row from masked logits.

    Returns:
      The tokens, and their log-probabilities log softmax(logits / temperature): those that the
      trainer computes, before top-k and top-p. Greedy reports them at temperature 1.
    """
    if sampling.temperature == 0:
        tokens = jnp.argmax(logits, axis=-1)
    else:
        kept = logits / sampling.temperature
        if sampling.top_k:
            kept = _keep_top_k(kept, sampling.top_k)
        if sampling.top_p < 1:
            kept = _keep_top_p(kept, sampling.top_p)
        tokens = jax.vmap(jax.vmap(_draw))(keys, kept)
    tokens = tokens.astype(jnp.int32)
    return tokens, log_prob_of(logits, tokens, sampling)


def _draw(key: Key[Array, ""], logits: Float[Array, " V"]) -> Int[Array, ""]:
    """Draw from softmax(logits) by inverting its distribution function, block by block.

    Two random numbers a row, where adding Gumbel noise would take one for each token.
    """
    size = logits.shape[0]
    weights = jnp.exp(logits - logits.max())
    blocks = jnp.pad(weights, (0, -size % BLOCK)).reshape(-1, BLOCK)
    of_block, of_token = jax.random.uniform(key, (2,))
    block = _invert(blocks.sum(axis=1), of_block)
    return block * BLOCK + _invert(blocks[block], of_token)


def _invert(weights: Float[Array, " n"], uniform: Float[Array, ""]) -> Int[Array, ""]:
    """Return the first place where the running sum exceeds a share in [0, 1) of the whole.

    A place of weight zero is never returned, however sums are rounded.
    """
    sums = jnp.cumsum(weights)
    possible = weights > 0
    passed = possible & (sums > uniform * sums[-1])
    last = weights.shape[0] - 1 - jnp.argmax(possible[::-1])
    return jnp.where(passed.any(), jnp.argmax(passed), last)


def log_prob_of(
    logits: Float[Array, "B G V"], tokens: Int[Array, "B G"], sampling: Sampling
) -> Float[Array, "B G"]:
    """Return log softmax(logits / temperature) of given tokens; greedy: at temperature 1."""
    logits = logits / (sampling.temperature or 1.0)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _keep_top_k(logits: Float[Array, "B G V"], top_k: int) -> Float[Array, "B G V"]:
    return _keep_above(
        logits, jax.nn.softmax(logits, axis=-1), lambda kept, _: kept.sum(axis=-1) >= top_k
    )


def _keep_top_p(logits: Float[Array, "B G V"], top_p: float) -> Float[Array, "B G V"]:
    # The sum of all probabilities may round to less than top_p.
    total = jax.nn.softmax(logits, axis=-1).sum(axis=-1)
    return _keep_above(
        logits,
        jax.nn.softmax(logits, axis=-1),
        lambda kept, probs: jnp.where(kept, probs, 0).sum(axis=-1) >= jnp.minimum(top_p, total),
    )


def _keep_above(logits, probs, enough):
    """Keep the tokens at or above the highest probability threshold whose kept set is `enough`.

    Non-negative floats are ordered as their bits are, so bisection over 31 bits is exact. Tokens
    of equal probability are kept or dropped together.
    """
    bits = lax.bitcast_convert_type(probs, jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        fits = enough(bits >= middle[..., None], probs)
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    low = jnp.zeros(probs.shape[:-1], jnp.int32)
    high = jnp.full(probs.shape[:-1], lax.bitcast_convert_type(jnp.float32(2.0), jnp.int32))
    threshold, _ = lax.fori_loop(0, 31, halve, (low, high))
    return jnp.where(bits >= threshold[..., None], logits, -jnp.inf)
