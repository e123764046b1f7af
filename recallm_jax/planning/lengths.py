"""Distributions of response lengths, from which the work of a step follows."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr


@dataclasses.dataclass(frozen=True, eq=False)
class LengthDistribution:
    """How many tokens a response has, from 0 to a limit T.

    Attributes:
      survival: P(length > t) for t = 0 … T - 1: the share of rows that live at step t of decoding.
      about: the distribution in words.
    """

    survival: Float[np.ndarray, " T"]
    about: str

    @property
    def limit(self) -> int:
        """The most tokens of a response, T."""
        return len(self.survival)

    @property
    def mean(self) -> float:
        """The expected length, E[n]: the sum of the survival function."""
        return float(self.survival.sum())

    @property
    def pairs(self) -> float:
        """The expected number of pairs of a token and one that it sees: E[n (n + 1) / 2]."""
        return float(self.survival @ np.arange(1, self.limit + 1))

    def longest(self, count: int) -> float:
        """Return the expected length of the longest of `count` independent responses."""
        return float((1 - (1 - self.survival) ** count).sum())


def full(limit: int) -> LengthDistribution:
    """Return the distribution of responses that all have `limit` tokens."""
    return LengthDistribution(np.ones(limit), f"{limit} tokens each")


def log_normal(mean: float, sigma: float, limit: int) -> LengthDistribution:
    """Return log-normal lengths, rounded up and cut at the limit.

    The length is min(ceil(X), T), where log X is normal with deviation `sigma`. The mean of log X
    is chosen such that the lengths have the given mean after the cut.

    Args:
      mean: expected tokens, from 1 to `limit`.
      sigma: the standard deviation of log X, above 0.
    """
    # A whole number is exceeded by ceil(X) where X exceeds it.
    logs = np.log(np.arange(1, limit))

    def survival(location: float) -> np.ndarray:
        return np.concatenate([[1.0], ndtr((location - logs) / sigma)])

    # At these ends all lengths are 1, or the limit. The mean grows between them.
    low, high = -10 * sigma, np.log(limit) + 10 * sigma
    for _ in range(100):
        middle = (low + high) / 2
        if survival(middle).sum() < mean:
            low = middle
        else:
            high = middle
    about = f"log-normal with mean {mean:.4g} and sigma {sigma:g}, cut at {limit} tokens"
    return LengthDistribution(survival(high), about)


def of_lengths(lengths: Sequence[int], limit: int) -> LengthDistribution:
    """Return the distribution of these lengths, cut at the limit.

    Args:
      lengths: one or more lengths in tokens.
    """
    cut = np.minimum(lengths, limit)
    # Of n lengths, n - (those of at most t tokens) are longer than t.
    longer = len(cut) - np.cumsum(np.bincount(cut, minlength=limit + 1))[:limit]
    about = f"those of {len(cut)} responses with mean {cut.mean():.4g}, cut at {limit} tokens"
    return LengthDistribution(longer / len(cut), about)
