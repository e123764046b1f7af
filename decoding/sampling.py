"""Choosing a token from logits, without a sort.

The order is: repetition penalty, the user's function, the span mask; then temperature, top-k,
top-p and min-p, each over the tokens that the one before has kept. The steps before the mask can't
unmask anything, so every span stays a copy.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key, UInt32

from decoding.arrays import AnyArray
from decoding.errors import DecodingInputError
from decoding.token_bits import unpack

# Tokens of a block, whose weights are summed first in a draw: about the square root of V.
BLOCK = 256
# Division by less could take logits out of the range of float32.
LOWEST_TEMPERATURE = 1e-3


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Sampling:
    """The settings of drawing tokens; static.

    Attributes:
      temperature: 0 is greedy; otherwise at least `LOWEST_TEMPERATURE`.
      top_k: keep the k most likely tokens, 0 keeps all.
      top_p: keep the fewest most likely tokens with this much probability, 1 keeps all.
      min_p: keep the tokens with at least this share of the likeliest token's probability
        (arXiv 2407.01082), 0 keeps all.
      repetition_penalty: divides the positive logits of tokens that the prompt or the response
        holds, and multiplies the negative ones (CTRL, arXiv 1909.05858, section 4.1); 1 is off.
        It applies inside recall spans too, where it affects which of the allowed tokens is drawn.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        warm = LOWEST_TEMPERATURE <= self.temperature < math.inf
        bounds = {
            "temperature": (
                self.temperature == 0 or warm,
                f"must be 0 (greedy), or finite and at least {LOWEST_TEMPERATURE}",
            ),
            "top_k": (self.top_k >= 0, "is negative; use 0 to keep all tokens"),
            "top_p": (0 < self.top_p <= 1, "must lie in (0, 1]; use 1 to keep all tokens"),
            "min_p": (0 <= self.min_p <= 1, "must lie in [0, 1]; use 0 to keep all tokens"),
            "repetition_penalty": (
                0 < self.repetition_penalty < math.inf,
                "must be finite and above 0; 1 is off",
            ),
        }
        for name, (holds, remedy) in bounds.items():
            if not holds:
                raise DecodingInputError(f"{name} {getattr(self, name)} {remedy}")

    @property
    def counts_repetition(self) -> bool:
        """Whether the tokens that a row has seen matter."""
        return self.repetition_penalty != 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowSampling:
    """The settings of each row, with the fields of `Sampling`; None if all rows leave one off.

    `stack_sampling` builds them from checked settings; values given here are not checked.
    """

    temperature: Float[AnyArray, "B G"]
    top_k: Int[AnyArray, "B G"] | None = None
    top_p: Float[AnyArray, "B G"] | None = None
    min_p: Float[AnyArray, "B G"] | None = None
    repetition_penalty: Float[AnyArray, "B G"] | None = None

    @property
    def counts_repetition(self) -> bool:
        """Whether the tokens that a row has seen matter."""
        return self.repetition_penalty is not None


def stack_sampling(rows: Sequence[Sequence[Sampling]]) -> RowSampling:
    """Return settings that differ from row to row, from B lists of G settings."""
    off = dataclasses.asdict(Sampling())

    def field(name):
        values = np.array([[getattr(row, name) for row in group] for group in rows])
        if name != "temperature" and (values == off[name]).all():
            return None
        return values.astype(np.int32 if name == "top_k" else np.float32)

    return RowSampling(**{name: field(name) for name in off})


def _filters(sampling: Sampling | RowSampling, shape: tuple[int, ...]) -> RowSampling:
    """Return the settings as rows, None for settings that are off."""
    if isinstance(sampling, RowSampling):
        return sampling
    rows = [[sampling] * shape[1]] * shape[0]
    return stack_sampling(rows)


def row_keys(
    seed: int | Int[Array, ""],
    step: int | Int[Array, ""],
    example_ids: Integer[AnyArray, " B"],
    group_size: int,
) -> Key[Array, "B G"]:
    """Return one key a row, folded from (seed, step, example id, continuation).

    So the samples of a prompt depend neither on the rest of its batch nor on restarts.

    Raises:
      DecodingInputError: an example id does not fit into 32 bits, all that a key takes in.
    """
    if isinstance(example_ids, np.ndarray):
        outside = example_ids[(example_ids < 0) | (example_ids >= 2**32)]
        if len(outside):
            raise DecodingInputError(f"example id {outside[0]} must lie between 0 and 2**32 - 1")
    base = jax.random.fold_in(jax.random.key(seed), step)

    def one_prompt(example_id):
        key = jax.random.fold_in(base, example_id)
        return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(group_size))

    return jax.vmap(one_prompt)(example_ids)


def penalise_repetition(
    logits: Float[Array, "B G V"],
    seen: UInt32[Array, "B G words"],
    sampling: Sampling | RowSampling,
) -> Float[Array, "B G V"]:
    """Lower the logits of the tokens in each row's set `seen`."""
    penalty = _filters(sampling, seen.shape[:2]).repetition_penalty
    if penalty is None:
        return logits
    penalty = jnp.asarray(penalty)[..., None]
    lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(unpack(seen, logits.shape[-1]), lowered, logits)


def sample(
    logits: Float[Array, "B G V"], keys: Key[Array, "B G"], sampling: Sampling | RowSampling
) -> tuple[Int[Array, "B G"], Float[Array, "B G"]]:
    """Draw a token a row from masked logits.

    Returns:
      The tokens, and their log-probabilities log softmax(logits / temperature), before top-k,
      top-p and min-p. The trainer computes the same, unless repetition was penalised or a user's
      function applied. Greedy choice reports them at temperature 1.
    """
    if isinstance(sampling, Sampling) and sampling.temperature == 0:
        tokens = _best(logits)
    else:
        rows = _filters(sampling, keys.shape)
        kept = logits / _divisor(sampling)
        for keep, setting in (
            (_keep_top_k, rows.top_k),
            (_keep_top_p, rows.top_p),
            (_keep_min_p, rows.min_p),
        ):
            if setting is not None:
                kept = keep(kept, jnp.asarray(setting))
        tokens = jax.vmap(jax.vmap(_draw))(keys, kept)
        if isinstance(sampling, RowSampling):
            greedy = jnp.asarray(rows.temperature) <= 0
            tokens = jnp.where(greedy, _best(logits), tokens)
    tokens = tokens.astype(jnp.int32)
    return tokens, log_prob_of(logits, tokens, sampling)


def _divisor(sampling: Sampling | RowSampling) -> float | Float[Array, "B G 1"]:
    """Return the temperature that logits are divided by; 1 for greedy choice."""
    if isinstance(sampling, Sampling):
        return sampling.temperature or 1.0
    temperature = jnp.asarray(sampling.temperature)
    return jnp.where(temperature <= 0, 1.0, temperature)[..., None]


def _best(logits: Float[Array, "B G V"]) -> Int[Array, "B G"]:
    """Return the first of the best tokens.

    Two plain reductions do it, since argmax does not vectorise. Masked logits are never NaN.
    """
    places = lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    peak = logits.max(axis=-1, keepdims=True)
    return jnp.where(logits == peak, places, logits.shape[-1]).min(axis=-1)


def _draw(key: Key[Array, ""], logits: Float[Array, " V"]) -> Int[Array, ""]:
    """Draw from softmax(logits) by inverting its distribution function, block by block.

    It takes two random numbers a row; Gumbel noise would take one for each token.
    """
    size = logits.shape[0]
    weights = jnp.exp(logits - logits.max())
    blocks = jnp.pad(weights, (0, -size % BLOCK)).reshape(-1, BLOCK)
    of_block, of_token = jax.random.uniform(key, (2,))
    block = _invert(blocks.sum(axis=1), of_block)
    return block * BLOCK + _invert(blocks[block], of_token)


def _invert(weights: Float[Array, " n"], uniform: Float[Array, ""]) -> Int[Array, ""]:
    """Return the first place at which the running sum exceeds a share in [0, 1) of the total.

    A place of weight zero is never returned, even if sums are rounded.
    """
    sums = jnp.cumsum(weights)
    possible = weights > 0
    passed = possible & (sums > uniform * sums[-1])
    last = weights.shape[0] - 1 - jnp.argmax(possible[::-1])
    return jnp.where(passed.any(), jnp.argmax(passed), last)


def log_prob_of(
    logits: Float[Array, "B G V"], tokens: Int[Array, "B G"], sampling: Sampling | RowSampling
) -> Float[Array, "B G"]:
    """Return log softmax(logits / temperature) of given tokens; at temperature 1 if greedy.

    It is -inf for an id without a row in the vocabulary.
    """
    logits = from_peak(logits) / _divisor(sampling)
    chosen = jnp.take_along_axis(
        logits, tokens[..., None], axis=-1, mode="fill", fill_value=-jnp.inf
    )
    return chosen[..., 0] - jax.nn.logsumexp(logits, axis=-1)


def from_peak(logits: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
    """Subtract the largest logit of each row, which changes no probability.

    Otherwise a difference of two large logits would have the rounding error of large numbers.
    """
    peak = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    return logits - jnp.where(peak == -jnp.inf, 0.0, peak)


def _keep_top_k(logits: Float[Array, "B G V"], top_k: Int[Array, "B G"]) -> Float[Array, "B G V"]:
    top_k = jnp.where(top_k <= 0, logits.shape[-1], top_k)
    return _keep_above(
        logits, jax.nn.softmax(logits, axis=-1), lambda kept, _: kept.sum(axis=-1) >= top_k
    )


def _keep_top_p(logits: Float[Array, "B G V"], top_p: Float[Array, "B G"]) -> Float[Array, "B G V"]:
    probs = jax.nn.softmax(logits, axis=-1)
    # The sum of all probabilities may round to less than top_p. For 1 no sum is enough: all stay.
    enough = jnp.where(top_p < 1, jnp.minimum(top_p, probs.sum(axis=-1)), jnp.inf)
    return _keep_above(
        logits, probs, lambda kept, probs: jnp.where(kept, probs, 0).sum(axis=-1) >= enough
    )


def _keep_min_p(logits: Float[Array, "B G V"], min_p: Float[Array, "B G"]) -> Float[Array, "B G V"]:
    # The logarithm of 0 keeps all; the likeliest token always stays.
    lowest = logits.max(axis=-1) + jnp.minimum(jnp.log(min_p), 0.0)
    return jnp.where(logits >= lowest[..., None], logits, -jnp.inf)


def _keep_above(logits, probs, enough):
    """Keep the tokens at or above the highest threshold of probability that keeps `enough`.

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
    # The likeliest token stays, even if nothing else does.
    kept = (bits >= threshold[..., None]) | (logits == logits.max(axis=-1, keepdims=True))
    return jnp.where(kept, logits, -jnp.inf)
