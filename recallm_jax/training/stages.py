"""The training stages of a run, and the parts that their loops share."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import jax
import optax
from ml_collections import ConfigDict

from decoding.packing import RowSize
from decoding.span_copy import SpanRules
from decoding.span_scores import Scoring
from recallm_jax.data.records import train_records
from recallm_jax.data.released import trace_records
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import span_rules
from recallm_jax.training.bad_batch import Inspected, NotFinite
from rl.learner import LearnerState
from rl.optimizer import Schedule, adamw, train_rows_only
from tasks.prompts.record import Record

SFT_STAGES = ("sft1", "sft2")
START, COLD_START, GRPO, PPO = "start", "cold_start", "grpo", "ppo"
# Folded into the sampling keys, so that no two stages of a run draw the same numbers.
KEY_STRIDE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run, built from the config.

    Attributes:
      first_record: number of training records that earlier stages use.
      batch_size: records of a step, or of one draw of a step that draws several times.
      critic: whose hidden states PPO's critic reads, "shared" or "own"; "" without a critic.
    """

    name: str
    number: int
    steps: int
    batch_size: int
    first_record: int
    optimizer: optax.GradientTransformation
    critic: str = ""


def plan_stages(config: ConfigDict, context: Context) -> list[Stage]:
    """Return the stages that the config lists; each uses records of its own."""
    stages, used = [], 0
    for number, name in enumerate(config.stages):
        section = config[name]
        size = section.batch_size if name in SFT_STAGES else section.prompts_per_step
        optimizer = make_optimizer(config, context, name)
        critic = section.critic if name == PPO else ""
        stages.append(Stage(name, number, section.steps, size, used, optimizer, critic))
        # A step may draw several times.
        used += section.steps * size * (section.max_draws if name == GRPO else 1)
    return stages


def policy_label(config: ConfigDict, stage: Stage, step: int) -> str:
    """Return the name under which a stage's policy is evaluated after `step` of its steps."""
    if step < stage.steps:
        return f"{stage.name}_step{step}"
    if stage.name not in SFT_STAGES:
        return stage.name
    following = config.stages[stage.number + 1 :]
    return stage.name if following and following[0] in SFT_STAGES else COLD_START


def make_optimizer(config: ConfigDict, context: Context, name: str) -> optax.GradientTransformation:
    """Return a stage's optimiser; phase 1 of the cold start trains the four new rows only."""
    section, shared = config[name], config.optimizer
    updates = section.steps
    if name not in SFT_STAGES:
        updates *= section.minibatches * section.epochs

    def at(learning_rate: float) -> optax.GradientTransformation:
        return adamw(
            Schedule(learning_rate, updates, section.warmup_fraction),
            b1=shared.b1,
            b2=shared.b2,
            eps=shared.eps,
            weight_decay=shared.weight_decay,
            clip_norm=shared.clip_norm,
        )

    if name == PPO:
        # Each is clipped by its own norm.
        both = {"policy": at(shared.learning_rate), "critic": at(section.value_learning_rate)}
        return optax.partition(both, {"policy": "policy", "critic": "critic"})
    optimizer = at(section.learning_rate if name in SFT_STAGES else shared.learning_rate)
    if name != "sft1":
        return optimizer
    rows = context.tokenizer.added_ids
    lora = context.policy.config.lora
    # A model with adapters has these rows apart from the others.
    return train_rows_only(optimizer, rows if lora is None else tuple(range(len(rows))))


def batches(
    config: ConfigDict, context: Context, stage: Stage, drawn: int
) -> Generator[list[Record], None, None]:
    """Yield the records of each draw after the first `drawn` of the stage; close it when done.

    If several processes train, each yields the records of its own prompts.
    """
    start, size = stage.first_record + drawn, stage.batch_size
    rows = context.own_rows(size).tolist()
    traced = stage.name in SFT_STAGES and config.data.traces
    source = trace_records if traced else train_records
    with contextlib.closing(
        source(config, context.tokenizer, start, rows=rows, size=size)
    ) as records:
        while True:
            yield list(islice(records, len(rows)))


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a stage goes on with from a step, beside its state.

    Attributes:
      drawn: number of records that the stage has drawn before that step.
      row_sizes: the sizes of rows that it has chosen (`rl.row_sizes`).
    """

    drawn: int = 0
    row_sizes: tuple[RowSize, ...] = ()


# A step and its metrics.
Write = Callable[[int, dict[str, float]], None]


@runtime_checkable
class Save(Protocol):
    """Saves the state before a step, if a checkpoint is due or `now`."""

    def __call__(
        self, step: int, state: LearnerState, progress: Progress, *, now: bool = False
    ) -> None: ...


@dataclasses.dataclass(frozen=True)
class Loop:
    """The steps of a stage, their data, and where their results go.

    Attributes:
      steps: numbers of the steps to make.
      data: records of each draw.
      progress: that of the steps before.
      write: takes a step and its metrics.
      save: takes the state after a step.
    """

    steps: Iterable[int]
    data: Iterator[list[Record]]
    progress: Progress
    write: Write
    save: Save


def training_rules(config: ConfigDict, context: Context) -> SpanRules:
    """Return the rules of recall spans that a run learns and samples under."""
    return span_rules(config, context.tokenizer, constrained=config.decoding.constrained)


def scoring_of(config: ConfigDict, rules: SpanRules, *, temperature: float) -> Scoring:
    """Return the settings of scores for a config; `temperature` is that of the sampler."""
    return Scoring(
        rules=rules,
        budget=config.decoding.max_new_tokens,
        temperature=temperature,
        chunk=config.model.logits_chunk,
        parts=config.mesh.sequence,
    )


def finite(metrics: dict, stage: Stage, step: int, seen: Inspected) -> dict[str, float]:
    """Return the metrics as floats.

    Raises:
      NotFinite: one of them is NaN or infinite; the error holds the data of the step.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not all(map(math.isfinite, values.values())):
        raise NotFinite(stage.name, step, values, seen)
    return values
