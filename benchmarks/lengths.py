"""Lengths of responses as they occur, and prefixes that end responses at given lengths."""

import numpy as np
from jaxtyping import Int

from decoding.decode_loop import SAMPLED


def log_normal_lengths(
    limit: int, prompts: int, group: int, *, seed: int = 0
) -> Int[np.ndarray, "B G"]:
    """Return log-normal lengths with a mean of about a fifth of the limit and a deviation of 1."""
    drawn = np.random.default_rng(seed).lognormal(np.log(limit / 5) - 0.5, 1.0, (prompts, group))
    return np.clip(np.ceil(drawn), 1, limit).astype(np.int32)


def ending_at(
    lengths: Int[np.ndarray, "B G"], end: int, stop: int
) -> Int[np.ndarray, "B G longest"]:
    """Return prefixes in which all is sampled but the last two tokens: a span's end, and a stop."""
    prefix = np.full((*lengths.shape, lengths.max()), SAMPLED, np.int32)
    np.put_along_axis(prefix, np.maximum(lengths - 2, 0)[..., None], end, axis=2)
    np.put_along_axis(prefix, lengths[..., None] - 1, stop, axis=2)
    return prefix


def free_text(
    lengths: Int[np.ndarray, "B G"], stop: int, special: int
) -> Int[np.ndarray, "B G longest"]:
    """Return prefixes of random tokens below the first special one, which end in a stop token."""
    given = np.random.default_rng(0).integers(1, special, (*lengths.shape, lengths.max()))
    np.put_along_axis(given, lengths[..., None] - 1, stop, axis=2)
    return given.astype(np.int32)
