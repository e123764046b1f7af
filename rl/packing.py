"""Which prompts are computed together, and in which rows their responses lie.

A batch is split into micro-batches of equally many prompts. Groups of similar size are put
together, and each micro-batch takes the smallest of a few sizes that holds them; `rl/row_sizes.py`
chooses these. Everything here is a pure function of sizes and of the responses' lengths: a run that
starts again packs the same.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from decoding.packing import RowSize, Slots


class Run(NamedTuple):
    """The micro-batches `first` to `last` - 1, which have one size."""

    size: RowSize
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Packing:
    """The micro-batches of a batch.

    Attributes:
      num_parts: the number of micro-batches.
      order: the prompts by their places: micro-batch m has the places m, m + num_parts, … So it
        takes prompts from every device, and is split over devices as the batch is.
      slots: the slots of the responses, in the order of the batch.
      runs: the micro-batches by their sizes.
      num_tokens: the number of tokens of responses.
    """

    num_parts: int
    order: Int[np.ndarray, " B"]
    slots: Slots
    runs: tuple[Run, ...]
    num_tokens: int

    @property
    def num_positions(self) -> int:
        """The number of positions in rows, those that hold no token included."""
        prompts = len(self.order) // self.num_parts
        return sum((last - first) * prompts * math.prod(size) for size, first, last in self.runs)

    @property
    def padding_share(self) -> float:
        """The share of positions that hold no token of a response."""
        return 1 - self.num_tokens / self.num_positions


def one_a_row(num_prompts: int, group_size: int, limit: int, *, num_parts: int = 1) -> Packing:
    """Return micro-batches in the order of prompts, with each response in a row of its own."""
    rows = np.broadcast_to(np.arange(group_size, dtype=np.int32), (num_prompts, group_size))
    size = RowSize(group_size, limit)
    return Packing(
        num_parts=num_parts,
        order=np.arange(num_prompts),
        slots=Slots(rows, np.zeros_like(rows)),
        runs=(Run(size, 0, num_parts),),
        num_tokens=num_prompts * group_size * limit,
    )


def pack(lengths: Int[np.ndarray, "B G"], sizes: tuple[RowSize, ...], num_parts: int) -> Packing:
    """Return the micro-batches of responses with these lengths, the smallest first.

    Args:
      lengths: those of the whole batch, the same in every process.
      sizes: those of `rl.row_sizes` that are chosen; the last holds any group.
      num_parts: the number of micro-batches; divides the number of prompts.
    """
    by_size = alike(lengths, num_parts)
    fits = [
        next(
            (number, packed)
            for number, size in enumerate(sizes)
            if (packed := slots_of(lengths[prompts], size)) is not None
        )
        for prompts in by_size
    ]
    # One long response may need a large size. Micro-batches of one size come together.
    parts = sorted(range(num_parts), key=lambda part: fits[part][0])
    # Place j of micro-batch m is place j * num_parts + m of the batch.
    order = by_size[parts].T.ravel()
    slots = np.zeros((*lengths.shape, 2), np.int32)
    slots[order] = np.stack([fits[part][1] for part in parts], axis=1).reshape(slots.shape)
    return Packing(
        num_parts=num_parts,
        order=order,
        slots=Slots(slots[..., 0], slots[..., 1]),
        runs=tuple(_runs([sizes[fits[part][0]] for part in parts])),
        num_tokens=int(lengths.sum()),
    )


def _runs(sizes: list[RowSize]) -> Iterator[Run]:
    first = 0
    for last in range(1, len(sizes) + 1):
        if last == len(sizes) or sizes[last] != sizes[first]:
            yield Run(sizes[first], first, last)
            first = last


def alike(lengths: Int[np.ndarray, "B G"], num_parts: int) -> Int[np.ndarray, "M b"]:
    """Return the prompts of each micro-batch: groups of similar size, the smallest first."""
    return np.argsort(lengths.sum(axis=1), kind="stable").reshape(num_parts, -1)


def slots_of(lengths: Int[np.ndarray, "b G"], size: RowSize) -> Int[np.ndarray, "b G 2"] | None:
    """Return row and start of each response, or None if a group does not fit."""
    found = np.zeros((*lengths.shape, 2), np.int32)
    for group, slots in zip(lengths, found, strict=True):
        used = [0] * size.rows
        # The longest first, each into the row that has most room: rows are filled evenly.
        for response in np.argsort(-group, kind="stable"):
            row = used.index(min(used))
            slots[response] = row, used[row]
            used[row] += int(group[response])
        if max(used) > size.length:
            return None
    return found
