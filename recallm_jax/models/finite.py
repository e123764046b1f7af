"""Whether parameters are numbers that a model can compute with.

NaN and infinities are not, nor are values whose square exceeds float32: norms, products and logits
of such parameters overflow.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from recallm_jax.runtime import processes

# The square root of the largest float32.
LARGEST = math.sqrt(float(np.finfo(np.float32).max))


def usable(values: np.ndarray) -> bool:
    """Return whether all values of a host array are usable; its type is a float of 2 to 8 bytes."""
    if values.dtype.itemsize > 2:
        # NaN passes through minimum and maximum, and no comparison with it holds.
        return values.size == 0 or bool(values.min() >= -LARGEST and values.max() <= LARGEST)
    # NumPy compares short floats slowly. Their bits, without the sign, have the order of their
    # sizes; NaN and infinity come last.
    largest = np.array(min(LARGEST, float(jnp.finfo(values.dtype).max)), values.dtype)
    magnitudes = values.view(np.uint16) & np.uint16(0x7FFF)
    return bool(magnitudes.max(initial=0) <= largest.view(np.uint16))


def unusable_names(tree: Any) -> list[str]:
    """Return the paths of a tree's arrays of floats that hold an unusable value.

    The arrays may lie on a mesh of several processes, which all call this.
    """
    floats = [
        (jax.tree_util.keystr(path, simple=True, separator="."), x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    if not floats:
        return []
    names, arrays = zip(*floats, strict=True)
    found = jax.device_get(_checker(processes.mesh_of(arrays))(arrays))
    return [name for name, good in zip(names, found, strict=True) if not good]


# A process uses one mesh, or few.
@functools.lru_cache(maxsize=16)
def _checker(mesh: jax.sharding.Mesh | None):
    """Return the program that says of each array whether all its values are usable."""

    def check(arrays: tuple[jax.Array, ...]) -> jax.Array:
        # A comparison with NaN is false.
        return jnp.stack([(jnp.abs(x) <= LARGEST).all() for x in arrays])

    if mesh is None:
        return jax.jit(check)
    return jax.jit(check, out_shardings=NamedSharding(mesh, PartitionSpec()))
