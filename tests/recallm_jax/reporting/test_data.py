"""The numbers of a report: by hand, and on curves that only scatter."""

import math

import numpy as np
import pytest

from recallm_jax.reporting.data import change, count, curve


def test_the_change_of_a_curve_by_hand():
    moved = change([0.0, 2.0, 5.0, 5.0, 4.0, 6.0])
    assert (moved.first, moved.last, moved.steps) == (1.0, 5.0, 2)
    # The standard deviations of (0, 2) and (4, 6) are sqrt(2): by sqrt(2 values) they give 1.
    assert moved.first_error == pytest.approx(1.0)
    # Spreads are equal, so that two pairs leave 2 degrees of freedom: t = 4.303. Two standard
    # errors are 2.83, which 4 exceeds; the interval is 4 ± 6.085.
    assert moved.interval.freedom == pytest.approx(2.0)
    low, high = moved.interval.low, moved.interval.high
    assert (low, high) == pytest.approx((-2.085, 10.085), abs=1e-3)
    assert moved.within_noise
    assert change([1.0] * 5) is None


def test_a_reward_that_only_scatters_seldom_counts_as_changed():
    # With a bound of two standard errors 18 % of runs of six steps would.
    curves = np.random.default_rng(0).normal(size=(1000, 6))
    assert np.mean([not change(values.tolist()).within_noise for values in curves]) < 0.06


def test_values_that_are_nan_are_left_out_of_curves():
    rows = [{"step": 0, "x": 1.0}, {"step": 1, "x": math.nan}, {"step": 2}]
    assert curve(rows, "x") == [(0, 1.0)]


def test_no_rows_count_as_nothing():
    assert count([]) is None
