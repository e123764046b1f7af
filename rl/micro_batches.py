"""The micro-batches of a packing, inside the programs of scores and updates."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Sharding
from jaxtyping import Array, Int

from decoding.packing import Layout, RowSize, Slots, lay_out
from decoding.rollout import Rollout
from rl.packing import Packing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Parts:
    """The micro-batches `first` to `last` - 1 of a batch, which have rows of one size.

    Attributes:
      slots: the slots of the responses of the whole batch.
      num_parts: the number of micro-batches of the batch.
    """

    slots: Slots
    first: Any
    last: Any
    size: RowSize = dataclasses.field(metadata={"static": True})
    num_parts: int = dataclasses.field(metadata={"static": True})

    def split(self, batch: Any, number: Any) -> tuple[Any, Slots]:
        """Return the prompts of a micro-batch, and the slots of their responses.

        Micro-batch m holds prompts m, m + num_parts, …: it takes prompts from every device, so that
        it is split over devices as the batch is.
        """

        def part(x):
            beside = x.reshape(-1, self.num_parts, *x.shape[1:])
            return lax.dynamic_index_in_dim(beside, number, axis=1, keepdims=False)

        return jax.tree.map(part, (batch, self.slots))

    def lay_out(self, rollout: Rollout, slots: Slots) -> Layout:
        """Return the layout of the responses of a micro-batch."""
        return lay_out(slots, rollout.lengths, self.size, rollout.tokens.shape[-1])


def parts_of(packing: Packing, slots: Slots) -> Iterator[Parts]:
    """Yield the micro-batches of a packing, those of one size together."""
    for size, first, last in packing.runs:
        yield Parts(slots, np.int32(first), np.int32(last), size, packing.num_parts)


# The layouts of the arrays of a tree, static; None for an array of which none is known.
Shardings = tuple[Sharding | None, ...]


def shardings_of(tree: Any) -> Shardings:
    """Return how arrays, or their descriptions, lie on devices; unknown inside a program."""
    leaves = jax.tree.leaves(tree)
    return tuple(
        None if isinstance(x, jax.core.Tracer | np.ndarray) else x.sharding for x in leaves
    )


def lying(tree: Any, shardings: Shardings) -> Any:
    """Constrain arrays to shardings, inside a program."""
    leaves, structure = jax.tree.flatten(tree)
    placed = [
        x if sharding is None else lax.with_sharding_constraint(x, sharding)
        for x, sharding in zip(leaves, shardings, strict=True)
    ]
    return jax.tree.unflatten(structure, placed)


def in_order(tree: Any, order: Int[np.ndarray, " B"]) -> Any:
    """Return arrays with their prompts in an order, each placed on devices as it was.

    Arrays that are in order already are copied like others: a program compiles for how its
    arguments are placed.
    """
    return _taken(tree, order, shardings=shardings_of(tree))


@functools.partial(jax.jit, static_argnames="shardings")
def _taken(tree: Any, order: Array, *, shardings: Shardings) -> Any:
    return lying(jax.tree.map(lambda x: x[order], tree), shardings)
