"""Arrays on the host or on devices, and rows of those that are split into parts."""

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Int, Shaped

if TYPE_CHECKING:
    # The two libraries' arrays share no base, and either goes wherever the other does.
    AnyArray: TypeAlias = Any
else:
    # Shapes and types are checked at run time.
    AnyArray = jax.Array | np.ndarray


def picked(
    values: Shaped[Array, "A rows *rest"], rows: Int[Array, "A *picked"]
) -> Shaped[Array, "A *picked_and_rest"]:
    """Return some rows of each part, by their numbers in it."""
    return jax.vmap(lambda of_part, at: of_part[at])(values, rows)
