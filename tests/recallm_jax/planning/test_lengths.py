"""Length distributions agree with lengths that NumPy samples, and with sums by hand."""

import numpy as np
import pytest

from recallm_jax.planning.lengths import full, log_normal, of_lengths


def test_a_log_normal_distribution_is_that_of_sampled_lengths():
    limit, sigma, mean = 200, 0.8, 60.0
    found = log_normal(mean, sigma, limit)
    assert found.mean == pytest.approx(mean, rel=1e-9)
    rng = np.random.default_rng(0)

    def sampled(location, *shape):
        return np.minimum(np.ceil(np.exp(location + sigma * rng.normal(size=shape))), limit)

    # The median of X, which the cut leaves as it is, tells the location.
    median = np.argmax(found.survival < 0.5)
    lengths = sampled(np.log(median - 0.5), 4000, 16)
    assert lengths.mean() == pytest.approx(mean, rel=0.02)
    assert np.mean(lengths * (lengths + 1) / 2) == pytest.approx(found.pairs, rel=0.03)
    assert lengths.max(axis=1).mean() == pytest.approx(found.longest(16), rel=0.02)
    for t in (0, 1, 30, 100, 199):
        assert np.mean(lengths > t) == pytest.approx(found.survival[t], abs=0.02)


@pytest.mark.parametrize("mean", [1.0, 1.5, 80.0, 199.0, 200.0])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 5.0])
def test_the_mean_is_the_given_one_after_the_cut(mean, sigma):
    found = log_normal(mean, sigma, 200)
    assert found.mean == pytest.approx(mean, rel=1e-6)
    assert np.all(np.diff(found.survival) <= 0)
    assert mean * (1 - 1e-6) <= found.longest(8) <= 200


def test_given_lengths_are_taken_as_they_are_up_to_the_limit():
    lengths = [1, 3, 3, 7]
    found = of_lengths(lengths, limit=5)
    cut = np.array([1, 3, 3, 5])
    assert found.survival.tolist() == [np.mean(cut > t) for t in range(5)]
    assert found.mean == cut.mean()
    assert found.pairs == np.mean(cut * (cut + 1) / 2)
    # All pairs of two independent lengths.
    assert found.longest(2) == np.maximum.outer(cut, cut).mean()
    assert found.about == "those of 4 responses with mean 3, cut at 5 tokens"


def test_full_lengths_are_the_limit():
    found = full(5)
    assert (found.mean, found.pairs, found.longest(1), found.longest(9)) == (5, 15, 5, 5)
