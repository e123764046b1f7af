"""Compilations are counted for the named functions, and for no others."""

import jax
import jax.numpy as jnp

from decoding.compilations import count_compilations


def test_a_program_counts_once_for_each_shape_and_only_by_itself():
    @jax.jit
    def counted(x):
        return 2 * x + 1

    @jax.jit
    def other(x):
        return counted(x) - 3

    with count_compilations(counted) as compiled:
        assert compiled() == 0
        for size in (3, 3, 4):
            counted(jnp.zeros(size))
        assert compiled() == 2
        other(jnp.zeros(5))
        assert compiled() == 2
    counted(jnp.zeros(6))
    assert compiled() == 2
