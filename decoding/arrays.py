"""The array type of dataclasses that are filled on the host and moved to devices and back."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
