"""How long a program takes at least, if its chip did nothing but what it must: a roofline.

An estimate, not a measurement: it takes the published peaks, and each of arithmetic, memory and
interconnect as if the others cost no time.
"""

import dataclasses

from recallm_jax.planning.chips import Chip
from recallm_jax.planning.compiling import Planned
from recallm_jax.planning.hlo import BETWEEN_SLICES
from recallm_jax.planning.programs import ROLLOUT


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Seconds of one run of a program.

    Attributes:
      arithmetic: at the chip's peak.
      memory: of reading parameters, and caches half full, for each token; 0 if nothing is decoded.
      interconnect: of sending what the program sends.
    """

    arithmetic: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self.arithmetic, self.memory, self.interconnect)


def at_least(planned: Planned, chip: Chip, num_chips: int) -> AtLeast:
    """Return the bound of a program."""
    program = planned.program
    read = planned.memory.arguments.get(ROLLOUT, 0)
    read += planned.caches.get("prompts", 0) + planned.caches.get("responses", 0) // 2
    sent = planned.traffic.total(program.rounds)
    # Over another network, of which no rate is published for a chip.
    sent.pop(BETWEEN_SLICES, None)
    return AtLeast(
        arithmetic=program.work.executed / num_chips / chip.peak_flops,
        memory=program.rounds * read / chip.hbm_bandwidth,
        interconnect=sum(sent.values()) / chip.ici_bandwidth,
    )
