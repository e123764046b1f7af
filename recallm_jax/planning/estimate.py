"""A lower bound on a program's run time: a roofline.

This is an estimate, not a measurement. It assumes the published peak rates, and that arithmetic,
memory and interconnect work fully in parallel.
"""

import dataclasses

from recallm_jax.planning.chips import Chip
from recallm_jax.planning.compiling import Planned
from recallm_jax.planning.hlo import BETWEEN_SLICES
from recallm_jax.planning.programs import ROLLOUT


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Least seconds of one run of a program.

    Attributes:
      arithmetic: the time of its operations at the chip's peak rate.
      memory: the time to read the parameters and half-full caches for each token; 0 for a program
        that does not decode.
      interconnect: the time to send its traffic.
    """

    arithmetic: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self.arithmetic, self.memory, self.interconnect)


def at_least(planned: Planned, chip: Chip, num_chips: int) -> AtLeast:
    """Return the lower bound for a program."""
    program = planned.program
    read = planned.memory.arguments.get(ROLLOUT, 0)
    read += planned.caches.get("prompts", 0) + planned.caches.get("responses", 0) // 2
    sent = planned.traffic.total(program.rounds)
    # Slices are joined by another network, which has no published rate for a chip.
    sent.pop(BETWEEN_SLICES, None)
    return AtLeast(
        arithmetic=program.work.executed / num_chips / chip.peak_flops,
        memory=program.rounds * read / chip.hbm_bandwidth,
        interconnect=sum(sent.values()) / chip.ici_bandwidth,
    )
