"""The array type of dataclasses that are filled on the host and moved to devices and back."""

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

if TYPE_CHECKING:
    # The two libraries' arrays share no base, and either goes wherever the other does.
    AnyArray: TypeAlias = Any
else:
    # Shapes and types are checked at run time.
    AnyArray = jax.Array | np.ndarray
