"""The output matrix, gathered once for many calls of `unembed`.

On a mesh each group of devices with tokens of its own has its own copy, along two axes of the
array. So the gradients of all calls are summed on each device first, and over devices only once, in
the end. With one shared array they would be summed over devices in every call.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from decoding.arrays import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AddedRows:
    """What is added to the rows of n tokens, in an embedding or output matrix that is frozen.

    The matrix is never copied: the differences are added to what was computed with it.

    Attributes:
      rows: the differences, float32.
      tokens: the ids of the tokens.
    """

    rows: Float[AnyArray, "n D"]
    tokens: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def to_embedded(self, x: Float[Array, "*rows D"], tokens: Int[Array, "*rows"]) -> Array:
        """Add to the embeddings of tokens."""
        for number, token in enumerate(self.tokens):
            row = self.rows[number].astype(x.dtype)[(None,) * tokens.ndim]
            x = x + jnp.where((tokens == token)[..., None], row, 0)
        return x

    def to_logits(
        self,
        logits: Float[Array, "*rows K"],
        hidden: Float[Array, "*rows D"],
        tokens: Int[Array, "*rows K"] | None = None,
    ) -> Float[Array, "*rows K"]:
        """Add to the float32 logits of K tokens each, or of all tokens."""
        added = jnp.einsum(
            "...d,nd->...n",
            hidden,
            self.rows.astype(hidden.dtype),
            preferred_element_type=jnp.float32,
        )
        if tokens is None:
            tokens = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        # A scatter would be a pass over all logits of its own; comparisons are fused into the next.
        for number, token in enumerate(self.tokens):
            logits = logits + jnp.where(tokens == token, added[..., number, None], 0.0)
        return logits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OutputCopies:
    """Copies for each of A equal parts of the prompts and C equal parts of a prompt's rows."""

    matrix: Float[AnyArray, "A C V D"]
    added: AddedRows | None = None

    def unembed(self, hidden: Float[Array, "B R D"]) -> Float[Array, "B R V"]:
        """Return the float32 logits of hidden states."""
        matrix = self.matrix.astype(hidden.dtype)
        logits = jnp.einsum(
            "abcrd,acvd->abcrv", self._parts(hidden), matrix, preferred_element_type=jnp.float32
        )
        logits = logits.reshape(*hidden.shape[:-1], -1)
        return logits if self.added is None else self.added.to_logits(logits, hidden)

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
        logits = logits.reshape(tokens.shape)
        return logits if self.added is None else self.added.to_logits(logits, hidden, tokens)

    def _parts(self, x: Array) -> Array:
        """Return [A, B / A, C, R / C, *rest]."""
        prompts, rows = self.matrix.shape[:2]
        return x.reshape(prompts, x.shape[0] // prompts, rows, x.shape[1] // rows, *x.shape[2:])
