"""What a run is going to do: the steps, tokens and operations of its stages."""

import dataclasses
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from recallm_jax.planning.abstract import abstract_context
from recallm_jax.planning.chips import peak_flops
from recallm_jax.planning.programs import programs
from recallm_jax.training.stages import SFT_STAGES


@dataclasses.dataclass(frozen=True)
class StageWork:
    """The work of a stage, at full lengths.

    Attributes:
      tokens: of the prompts and responses of a step, each prompt counted once.
      operations: of all matrix products of a step.
      least_seconds: a step at the devices' peak rate; None if that is not known.
    """

    name: str
    steps: int
    prompts: int
    responses: int
    tokens: int
    operations: float
    least_seconds: float | None


def stage_works(config: ConfigDict, devices: Sequence[jax.Device]) -> list[StageWork]:
    """Return the work of each stage on the mesh of a config; nothing is computed or compiled."""
    context = abstract_context(config, devices)
    peak = peak_flops(devices[0].device_kind)
    operations: dict[str, float] = {}
    for program in programs(config, context):
        stage = program.name.partition(".")[0]
        work = program.runs * program.work.executed
        operations[stage] = operations.get(stage, 0.0) + work
    works = []
    for name in config.stages:
        section = config[name]
        sft = name in SFT_STAGES
        prompts = section.batch_size if sft else section.prompts_per_step
        group = 1 if sft else section.group_size
        works.append(
            StageWork(
                name=name,
                steps=section.steps,
                prompts=prompts,
                responses=prompts * group,
                tokens=prompts
                * (config.data.target_length + group * config.decoding.max_new_tokens),
                operations=operations[name],
                least_seconds=peak and operations[name] / (peak * context.mesh.size),
            )
        )
    return works
