"""Intervals and tests: published tables, hand numbers, samples without spread."""

import math

import pytest

from recallm_jax.evaluation.statistics import (
    mean_and_error,
    sign_test,
    welch_interval,
    wilson_interval,
)


def test_the_wilson_interval_by_hand():
    # z² = 3.8416; 8 of 10: (0.8 + 0.19208 ± 1.96 sqrt(0.016 + 0.009604)) / 1.38416
    low, high = wilson_interval(8.0, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0.0, 10)[0] == 0.0
    assert wilson_interval(10.0, 10)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(1.5, 3), (8.0, 10), (0.25, 144)])
def test_the_wilson_bounds_are_196_standard_errors_from_the_share(successes, trials):
    # The files of evaluations hold them: a z of 1.95996, as in SciPy, would change them.
    share = successes / trials
    for bound in wilson_interval(successes, trials):
        error = math.sqrt(bound * (1 - bound) / trials)
        assert abs(share - bound) == pytest.approx(1.96 * error, rel=1e-9)


@pytest.mark.parametrize(
    ("size", "quantile"),
    [(2, 4.303), (3, 2.776), (4, 2.447), (6, 2.228), (16, 2.042), (61, 1.980)],
)
def test_welchs_interval_has_the_quantiles_of_the_published_tables(size, quantile):
    # Samples of equal spread leave 2 (size - 1) degrees of freedom.
    before = [float(number % 2) for number in range(size)]
    found = welch_interval(before, [value + 3 for value in before])
    assert found.freedom == pytest.approx(2 * (size - 1))
    error = math.sqrt(2) * mean_and_error(before)[1]
    assert (found.low, found.high) == pytest.approx(
        (3 - quantile * error, 3 + quantile * error), abs=6e-4 * error
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_sample_without_spread_leaves_the_freedom_of_the_other(value):
    # t with 2 degrees of freedom is 4.303; the standard error of (0, 2, 4) is 2 / sqrt(3).
    found = welch_interval([value] * 3, [0.0, 2.0, 4.0])
    assert found.freedom == pytest.approx(2.0)
    half = 4.303 * 2 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - value - half, 2 - value + half), abs=1e-3)


@pytest.mark.parametrize(("before", "after"), [(0.1, 0.1), (0.0, 1.0), (1, 0.5)])
def test_two_samples_without_spread_differ_by_their_difference(before, after):
    found = welch_interval([before] * 3, [after] * 3)
    assert found.low == found.high == after - before
    assert found.freedom == 4.0


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 0), (1, 1), (26, 8), (3, 24), (7, 8)])
def test_the_sign_test_counts_the_splits_that_are_as_uneven(gained, lost):
    n = gained + lost
    splits = [math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(gained - lost)]
    assert sign_test(gained, lost) == pytest.approx(sum(splits) / 2**n)


def test_the_error_of_a_mean_by_hand():
    # The standard deviation of (1, 2, 3) is 1.
    assert mean_and_error([1, 2, 3]) == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert mean_and_error([0.5]) == (0.5, 0.0)
