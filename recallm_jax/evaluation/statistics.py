"""Intervals and tests for the numbers of evaluations and of training curves.

SciPy is imported in the functions that need it: jobs that compare nothing do not load it.
"""

import dataclasses
import math
import statistics
import warnings
from collections.abc import Sequence

# Steps and scores may be whole, and type checks at run time tell ints from floats.
Number = int | float


def wilson_interval(successes: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927).

    Args:
      successes: need not be whole: a prompt with several samples counts as their mean.
    """
    # In closed form: SciPy's `proportion_ci` takes only whole successes, and rounds z otherwise,
    # which would change the bounds in files that are written.
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclasses.dataclass(frozen=True)
class WelchInterval:
    """The 95 % interval of the difference of two means, from low to high.

    Attributes:
      freedom: degrees of freedom of the Student's t distribution.
    """

    low: float
    high: float
    freedom: float


def welch_interval(before: Sequence[Number], after: Sequence[Number]) -> WelchInterval:
    """Return the 95 % interval of the mean of `after` minus that of `before` (Welch 1947).

    Args:
      before, after: independent values, at least two each; their spreads may differ.
    """
    from scipy.stats import ttest_ind

    if len({*before}) == len({*after}) == 1:
        # Welch's degrees of freedom are 0 / 0 if neither sample scatters.
        difference = float(after[0] - before[0])
        return WelchInterval(difference, difference, float(len(before) + len(after) - 2))
    with warnings.catch_warnings():
        # SciPy warns of a sample whose values are all equal; the other one's spread is enough.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        found = ttest_ind(after, before, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return WelchInterval(float(low), float(high), float(found.df))


def sign_test(gained: int, lost: int) -> float:
    """Return the two-sided probability of so uneven a split of gains and losses by chance."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def mean_and_error(values: Sequence[Number]) -> tuple[float, float]:
    """Return the mean and its standard error; 0 for the error of a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error
