"""The least time of a run's steps, at full and at expected lengths, and its price.

Sums of the lower bounds of `planning/estimate.py`. Evaluations, rewards, compilation and what a
step does between its programs are not counted.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.planning.chips import Chip
from recallm_jax.planning.estimate import at_least
from recallm_jax.planning.hlo import Traffic
from recallm_jax.planning.lengths import LengthDistribution
from recallm_jax.planning.programs import Program
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.stages import SFT_STAGES

_PARTS = {
    **dict.fromkeys(("reshard", "decode"), "rollout"),
    "score": "scores",
    **dict.fromkeys(("update", "apply"), "update"),
}


@dataclasses.dataclass(frozen=True)
class StageTime:
    """The least time of a stage.

    Attributes:
      name: such as "grpo".
      steps: the number of its steps.
      parts: seconds of a step, by part: "rollout", "scores", "update".
    """

    name: str
    steps: int
    parts: Mapping[str, float]

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """Seconds of all steps."""
        return self.steps * self.step


@dataclasses.dataclass(frozen=True)
class RunTime:
    """The least time of a run.

    Attributes:
      stages: its stages, in order.
      num_chips: the chips that the run holds, in its mesh or not.
    """

    stages: tuple[StageTime, ...]
    num_chips: int

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def chip_hours(self) -> float:
        """Hours of all chips."""
        return self.seconds / 3600 * self.num_chips


@dataclasses.dataclass(frozen=True)
class Machine:
    """The chips of a plan.

    Attributes:
      mesh_chips: the chips of the mesh, which do the work.
      all_chips: the chips of the topology, which are paid for.
    """

    chip: Chip
    mesh_chips: int
    all_chips: int


@dataclasses.dataclass(frozen=True)
class LeastTime:
    """The least time of a run, and what it assumes.

    Attributes:
      times: at "full" lengths, and at "expected" ones if these are given.
      notes: lines about the lengths, and about what is not counted.
      price: of a chip for an hour, in any currency; None if not given.
    """

    times: Mapping[str, RunTime]
    notes: Sequence[str]
    price: float | None


def least_time(
    config: ConfigDict,
    programs: Sequence[Program],
    machine: Machine,
    traffic: Mapping[str, Traffic],
    *,
    responses: LengthDistribution | None = None,
    price: float | None = None,
) -> LeastTime:
    """Return the least time of a run.

    Args:
      programs: the programs of the run, those of its evaluation too.
      traffic: what a chip sends in the programs that were compiled, by their names.
      responses: the expected lengths of sampled responses. Demonstrations are always at full
        length.
    """
    ours = [program for program in programs if _stage(program) in config.stages]
    notes = [
        f"full lengths: prompts of {config.data.target_length} tokens, responses of "
        f"{config.decoding.max_new_tokens}"
    ]
    times = {"full": _run_time(config, ours, machine, traffic, None)}
    if responses is not None:
        times["expected"] = _run_time(config, ours, machine, traffic, responses)
        rows = max((program.groups.rows for program in ours if program.caches), default=0)
        notes.append(
            f"expected lengths: {responses.about}; the longest of {rows} decoded together has "
            f"{responses.longest(rows):,.0f}; prompts and demonstrations at full length"
        )
    silent = [program.name for program in ours if program.name not in traffic]
    if silent:
        notes.append(f"not compiled, so without what chips send: {', '.join(silent)}")
    return LeastTime(times, notes, price)


def _run_time(
    config: ConfigDict,
    programs: Sequence[Program],
    machine: Machine,
    traffic: Mapping[str, Traffic],
    responses: LengthDistribution | None,
) -> RunTime:
    stages = []
    for name in config.stages:
        lengths = None if name in SFT_STAGES else responses
        parts: dict[str, float] = {}
        for program in programs:
            if _stage(program) != name:
                continue
            sent = traffic.get(program.name)
            bound = at_least(
                program, machine.chip, machine.mesh_chips, traffic=sent, responses=lengths
            )
            part = _PARTS[program.kind]
            parts[part] = parts.get(part, 0.0) + program.runs * bound.seconds
        stages.append(StageTime(name, config[name].steps, parts))
    return RunTime(tuple(stages), machine.all_chips)


def _stage(program: Program) -> str:
    return program.name.partition(".")[0]


def parse_price(text: str | None) -> float | None:
    """Return the price of a chip for an hour; None if none is given.

    Raises:
      UserError: it is not a number, or it is negative.
    """
    if text is None:
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise UserError(
            f"--price_per_chip_hour={text} is not a price; give a number of at least 0, such as 4.2"
        )
    return price


def table_rows(least: LeastTime) -> list[tuple[str, tuple[float, ...], str]]:
    """Return the lines of a table: a name, a number for each of `times`, and their unit."""
    times = tuple(least.times.values())
    rows: list[tuple[str, tuple[float, ...], str]] = []
    for stages in zip(*(time.stages for time in times), strict=True):
        name, parts = stages[0].name, stages[0].parts
        if len(parts) > 1:
            rows += [
                (f"{name}.{part}", tuple(stage.parts[part] for stage in stages), "s")
                for part in parts
            ]
        rows.append((f"a step of {name}", tuple(stage.step for stage in stages), "s"))
        rows.append(
            (f"{stages[0].steps} steps of {name}", tuple(stage.seconds for stage in stages), "s")
        )
    rows.append(("the run", tuple(time.seconds / 3600 for time in times), "h"))
    rows.append(("the run", tuple(time.chip_hours for time in times), "chip-hours"))
    if least.price is not None:
        costs = tuple(least.price * time.chip_hours for time in times)
        rows.append((f"cost at {least.price:g} a chip-hour", costs, ""))
    return rows


def as_json(least: LeastTime) -> dict[str, Any]:
    """Return the least time for JSON; times are in seconds."""

    def one(time: RunTime) -> dict[str, Any]:
        stages = {
            stage.name: {"steps": stage.steps, "parts": dict(stage.parts), "step": stage.step}
            for stage in time.stages
        }
        cost = {} if least.price is None else {"cost": least.price * time.chip_hours}
        return {"stages": stages, "run": time.seconds, "chip_hours": time.chip_hours, **cost}

    of_lengths = {f"{name}_lengths": one(time) for name, time in least.times.items()}
    return {"notes": list(least.notes), "price_per_chip_hour": least.price, **of_lengths}
