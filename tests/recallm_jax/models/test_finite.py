"""Parameters that nothing can be computed with are found, on one device and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax.models.finite import LARGEST, unusable_names, usable

BAD = [np.nan, np.inf, -np.inf, 1e38, -2e19]


def test_the_largest_value_is_the_largest_whose_square_is_finite():
    with np.errstate(over="ignore"):
        assert np.isfinite(np.float32(LARGEST) ** 2)
        assert np.isinf(np.float32(LARGEST * 1.001) ** 2)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_arrays_with_bad_values_are_named_wherever_they_lie(value, dtype, sharded):
    tree = {
        "good": jnp.full((8, 4), -1e19, dtype),
        "bad": jnp.zeros((8, 4), dtype).at[6, 1].set(value),
        "steps": jnp.arange(8),
    }
    if sharded:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        tree = jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))
    assert unusable_names(tree) == ["bad"]
    assert not usable(np.asarray(tree["bad"]))
    assert usable(np.asarray(tree["good"]))


def test_no_arrays_and_empty_arrays_are_usable():
    assert unusable_names({}) == []
    assert usable(np.zeros((0, 3), np.float32))
