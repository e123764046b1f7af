"""Responses laid end to end in rows, so that scores and updates compute tokens and little padding.

The responses of a group lie in R rows of P positions, each response whole in one row:

    responses [G, T]     rows [R, P]
    a b c .              a b c d e
    d e . .              f g h i .
    f g h i

One response a row (R = G, P = T) is a layout like any other.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from decoding.arrays import AnyArray


class RowSize(NamedTuple):
    """The rows of each group; static, so that one program is compiled for each size.

    Attributes:
      rows: R, the number of rows of a group.
      length: P, the positions of a row.
    """

    rows: int
    length: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """The row of each response, and its first position in that row."""

    row: Int[AnyArray, "B G"]
    start: Int[AnyArray, "B G"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
    """The tokens of the positions of rows, and the positions of tokens.

    Attributes:
      response, place: the response's number in its group, and the token's number in the response;
        both are 0 where no token lies.
      real: the positions where a token lies.
      position: for each token of a response its position in all rows, r P + p; any position after
        the response's end.
      mask: the tokens of responses.
    """

    response: Int[Array, "B R P"]
    place: Int[Array, "B R P"]
    real: Bool[Array, "B R P"]
    position: Int[Array, "B G T"]
    mask: Bool[Array, "B G T"]

    def in_rows(self, field: Shaped[Array, "B G T *rest"]) -> Shaped[Array, "B R P *rest"]:
        """Return what the tokens have, in rows; anything where no token lies."""
        joined = field.reshape(field.shape[0], -1, *field.shape[3:])
        return _each(joined, self.response * field.shape[2] + self.place)

    def of_responses(self, field: Shaped[Array, "B R P"]) -> Shaped[Array, "B G T"]:
        """Return what positions have, in responses; 0 after their ends."""
        found = _each(field.reshape(field.shape[0], -1), self.position)
        return jnp.where(self.mask, found, jnp.zeros((), field.dtype))


def _each(fields, places):
    return jax.vmap(lambda field, at: field[at])(fields, places)


def lay_out(slots: Slots, lengths: Int[Array, "B G"], size: RowSize, limit: int) -> Layout:
    """Return the layout of responses of at most `limit` (T) tokens; their slots don't overlap."""
    rows = jnp.arange(size.rows)[None, :, None, None]
    at = jnp.arange(size.length)[None, None, :, None]
    row, start, length = (x[:, None, None] for x in (slots.row, slots.start, lengths))
    here = (row == rows) & (start <= at) & (at < start + length)
    numbers = jnp.arange(lengths.shape[1])[None, None, None]
    places = jnp.arange(limit)[None, None]
    mask = places < lengths[..., None]
    first = slots.row * size.length + slots.start
    return Layout(
        response=jnp.where(here, numbers, 0).sum(axis=-1),
        place=jnp.where(here, at - start, 0).sum(axis=-1),
        real=here.any(axis=-1),
        position=jnp.where(mask, first[..., None] + places, 0),
        mask=mask,
    )
