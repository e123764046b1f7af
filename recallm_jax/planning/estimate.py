"""A lower bound on a program's run time: a roofline.

This is an estimate, not a measurement. It assumes the published peak rates, and that arithmetic,
memory and interconnect work fully in parallel.
"""

import dataclasses

from recallm_jax.planning.chips import Chip
from recallm_jax.planning.flops import Groups
from recallm_jax.planning.hlo import BETWEEN_SLICES, Traffic
from recallm_jax.planning.lengths import LengthDistribution
from recallm_jax.planning.memory import bytes_per_chip
from recallm_jax.planning.programs import ROLLOUT, Program


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Least seconds of one run of a program.

    Attributes:
      arithmetic: the time of its operations at the chip's peak rate.
      memory: the time to read parameters and caches for each token; 0 for a program that does not
        decode.
      interconnect: the time to send its traffic; 0 if that is unknown.
    """

    arithmetic: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self.arithmetic, self.memory, self.interconnect)


def at_least(
    program: Program,
    chip: Chip,
    num_chips: int,
    *,
    traffic: Traffic | None,
    responses: LengthDistribution | None = None,
) -> AtLeast:
    """Return the lower bound for a program.

    Args:
      num_chips: chips of the mesh, which share the arithmetic.
      traffic: what a chip sends, from the compiled program; None if it was not compiled.
      responses: the lengths of the responses; None for full lengths.
    """
    groups = program.groups
    if responses is not None:
        groups = dataclasses.replace(groups, responses=responses)
    return AtLeast(
        arithmetic=program.count(groups).executed / num_chips / chip.peak_flops,
        memory=_read(program, groups) / chip.hbm_bandwidth,
        interconnect=_sent(program, groups, traffic) / chip.ici_bandwidth if traffic else 0.0,
    )


def _read(program: Program, groups: Groups) -> float:
    """Return the bytes that decoding reads on each chip.

    A step reads the parameters while any row lives, a prompt's keys and values while a row of its
    group lives, and of the living rows the keys and values of the tokens before this one.
    """
    if not program.caches:
        return 0.0
    responses = groups.responses
    policy = bytes_per_chip(program.arguments[ROLLOUT])
    prompts = bytes_per_chip(program.caches["prompts"])
    of_a_token = bytes_per_chip(program.caches["responses"]) / responses.limit
    return (
        policy * responses.longest(groups.rows)
        + prompts * responses.longest(groups.group_size)
        + of_a_token * (responses.pairs - responses.mean)
    )


def _sent(program: Program, groups: Groups, traffic: Traffic) -> float:
    """Return the bytes that a chip sends at least.

    The compiled program is one for full lengths. If responses are shorter, a pass over them and
    their prompts sends at least its share of the tokens. Slices are joined by another network,
    which has no published rate for a chip, so traffic between them does not count.
    """
    once, each_round = (
        sum(size for kind, size in sizes.items() if kind != BETWEEN_SLICES)
        for sizes in (traffic.once, traffic.each_round)
    )
    if program.kind in ("score", "update"):
        # Its rounds are its micro-batches.
        share = groups.tokens / program.groups.tokens
        return share * (once + program.rounds * each_round)
    return once + (groups.responses.mean if program.rounds else 0.0) * each_round
