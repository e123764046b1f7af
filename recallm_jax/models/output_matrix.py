"""The output matrix, gathered once for many calls of `unembed`.

On a mesh each group of devices with tokens of its own has its own copy, along two axes of the
array. So the gradients of all calls are summed on each device first, and over devices only once, in
the end. With one shared array they would be summed over devices in every call.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from decoding.arrays import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OutputCopies:
    """Copies for each of A equal parts of the prompts and C equal parts of a prompt's rows."""

    matrix: Float[AnyArray, "A C V D"]

    def unembed(self, hidden: Float[Array, "B R D"]) -> Float[Array, "B R V"]:
        """Return the float32 logits of hidden states."""
        matrix = self.matrix.astype(hidden.dtype)
        logits = jnp.einsum(
            "abcrd,acvd->abcrv", self._parts(hidden), matrix, preferred_element_type=jnp.float32
        )
        return logits.reshape(*hidden.shape[:-1], -1)

    def unembed_at(
        self, hidden: Float[Array, "B R D"], tokens: Int[Array, "B R K"]
    ) -> Float[Array, "B R K"]:
        """Return the float32 logits of K tokens each."""
        # Each part, over A and C, looks its tokens up in its own copy.
        of_parts = jax.vmap(jax.vmap(lambda matrix, tokens: matrix[tokens], in_axes=(0, 1)))
        rows = jnp.moveaxis(of_parts(self.matrix, self._parts(tokens)), 1, 2)
        logits = jnp.einsum(
            "abcrd,abcrkd->abcrk",
            self._parts(hidden),
            rows.astype(hidden.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits.reshape(tokens.shape)

    def _parts(self, x: Array) -> Array:
        """Return [A, B / A, C, R / C, *rest]."""
        prompts, rows = self.matrix.shape[:2]
        return x.reshape(prompts, x.shape[0] // prompts, rows, x.shape[1] // rows, *x.shape[2:])
