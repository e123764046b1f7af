"""The sizes of rows that a run compiles: a few, chosen from many as responses come.

A large program takes minutes to compile, so a run has at most eight sizes. Eight that were fixed
beforehand would lie far apart under a high limit, whatever the responses; so the sizes are chosen
close to the responses that occur. Choices depend on nothing but the lengths so far, and a run that
starts again goes on with those that it had.
"""

import bisect
import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from decoding.packing import RowSize
from rl.packing import alike, slots_of

# The most sizes of a run.
MOST_SIZES = 8
# A size is added where the best one so far has this many times the work of the smallest possible.
WORTH_IT = 1.25
# The work of a new size over that of the smallest possible: others like it will fit as well.
HEADROOM = 1.04
# From the largest responses so far to full ones, the sizes left must suffice at this ratio of work.
FARTHEST = 2.0
# The ratio of work between neighbours among all possible sizes.
FINEST = 1.02


@dataclasses.dataclass(frozen=True)
class RowSizes:
    """The sizes that rows may have, and those that a run has chosen.

    Attributes:
      possible: the smallest first; the last holds one full response a row.
      prompt_length: S; the work for a group is about that for S + R P positions.
      chosen: some of the possible ones, the smallest first; the last is always chosen.
    """

    possible: tuple[RowSize, ...]
    prompt_length: int
    chosen: tuple[RowSize, ...]

    def work(self, size: RowSize) -> int:
        """Return the positions of a group, its prompt's included."""
        return self.prompt_length + math.prod(size)

    def resumed(self, chosen: Iterable[Iterable[int]]) -> "RowSizes":
        """Return the sizes with those that a run had chosen before.

        Those that are not possible are left out: a run may go on with its rows split otherwise.
        """
        before = {RowSize(*size) for size in chosen} & {*self.possible} | {self.possible[-1]}
        return dataclasses.replace(self, chosen=tuple(sorted(before, key=self.work)))

    def chosen_for(self, lengths: Int[np.ndarray, "B G"], num_parts: int) -> "RowSizes":
        """Return the sizes with those that responses of these lengths make worth while.

        Args:
          lengths: those of a whole batch, the same in every process.
          num_parts: the number of micro-batches; divides the number of prompts.
        """
        sizes = self
        # The largest first: what is chosen for it may do for smaller ones.
        for prompts in reversed(alike(lengths, num_parts)):
            sizes = _with_one_for(sizes, lengths[prompts])
        return sizes

    def smallest(
        self, among: tuple[RowSize, ...], lengths: Int[np.ndarray, "b G"], work: float = 0
    ) -> RowSize:
        """Return the smallest of some sizes that holds the responses and has this work."""
        at_least = max(work, self.prompt_length + int(lengths.sum(axis=1).max()))
        first = bisect.bisect_left(among, at_least, key=self.work)
        return next(size for size in among[first:] if slots_of(lengths, size) is not None)


def _with_one_for(sizes: RowSizes, lengths: Int[np.ndarray, "b G"]) -> RowSizes:
    """Return the sizes with one for the responses of a micro-batch, if it is worth while."""
    left = MOST_SIZES - len(sizes.chosen)
    best, full = sizes.smallest(sizes.chosen, lengths), sizes.chosen[-1]
    least = sizes.work(sizes.smallest(sizes.possible, lengths))
    if not left or sizes.work(best) <= WORTH_IT * least:
        return sizes
    reach = sizes.work(full) / FARTHEST**left
    if best != full and sizes.work(sizes.chosen[-2]) < reach:
        # The sizes that are left are needed for longer responses.
        return sizes
    wanted = max(HEADROOM * least, reach) if best == full else HEADROOM * least
    new = sizes.smallest(sizes.possible, lengths, wanted)
    return sizes if new in sizes.chosen else sizes.resumed((*sizes.chosen, new))


def row_sizes(*, limit: int, group_size: int, prompt_length: int, parts: int = 1) -> RowSizes:
    """Return the sizes that rows may have, of which only that of full responses is chosen yet.

    Args:
      limit: T, the most tokens of a response.
      group_size: G.
      prompt_length: S.
      parts: the number of parts that devices split the rows into.
    """
    # The rows of one response alone are not split.
    parts = parts if group_size > 1 else 1
    full = RowSize(-(-group_size // parts) * parts, limit)
    steps = math.log((prompt_length + group_size * limit) / prompt_length) / math.log(FINEST)
    found: list[RowSize] = []
    for number in range(1, math.ceil(steps)):
        positions = prompt_length * (FINEST**number - 1)
        rows = parts * max(1, int(positions / (parts * limit)))
        size = RowSize(rows, _rounded(math.ceil(positions / rows)))
        if math.prod(size) > (math.prod(found[-1]) if found else 0):
            found.append(size)
    possible = (*(size for size in found if math.prod(size) < math.prod(full)), full)
    return RowSizes(possible, prompt_length, chosen=(full,))


def _rounded(length: int) -> int:
    """Round up to a multiple of 128, or by at most a sixteenth."""
    multiple = max(1, min(128, 1 << (length.bit_length() - 5 if length >= 32 else 0)))
    return -(-length // multiple) * multiple
