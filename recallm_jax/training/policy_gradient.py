"""The policy-gradient stages: the GRPO family and PPO, from step to step of a learner's state.

A step does four things in turn: `sample` draws groups of responses, `reward` rewards them,
`make_batch` computes their advantages, and `update` changes the policy. A batch has
`prompts_per_step` whole groups. It is split into `minibatches`, with an update on each, and this is
done `epochs` times.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.policy.context import Context
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.timing import Stopwatch
from recallm_jax.training.bad_batch import Inspected
from recallm_jax.training.batch import make_batch
from recallm_jax.training.policy_stage import PolicyStage, policy_stage
from recallm_jax.training.rollout_metrics import DrawReport, rollout_metrics
from recallm_jax.training.rollouts import first_with_spread, keys_of, reward, sample
from recallm_jax.training.speed import (
    DATA,
    REWARD,
    ROLLOUT,
    SCORES,
    UPDATE,
    count_tokens,
    padding_of,
    rollout_speed,
    seconds_metrics,
    update_speed,
)
from recallm_jax.training.stages import PPO, Loop, Progress, Stage, finite
from rl.batch import Batch, ScoredRollout
from rl.learner import LearnerState, Metrics, policy_update
from tasks.prompts.record import Record


def run_policy(
    config: ConfigDict,
    context: Context,
    stage: Stage,
    state: LearnerState,
    reference: Policy,
    loop: Loop,
) -> LearnerState:
    """Run a stage of the GRPO family (arXiv 2604.09494, section 4.2) or of PPO.

    Args:
      reference: the frozen policy of the KL penalty.

    Raises:
      UserError: no response of a step has a reward; the state before that step is saved.
    """
    run, drawn, watch = policy_stage(config, context, stage), loop.progress.drawn, Stopwatch()
    run = dataclasses.replace(run, sizes=run.sizes.resumed(loop.progress.row_sizes))
    for step in loop.steps:
        collected = collect(run, state.policy, loop.data, drawn, watch)
        for problem in collected.problems:
            context.console.say(f"{stage.name} {step}: no reward for {problem}")
        if not collected.rewarded:
            loop.save(step, state, Progress(drawn, run.sizes.chosen), now=True)
            raise UserError(
                f"{stage.name} {step}: no response has a reward; the first: "
                f"{collected.problems[0]}. Step {step} is saved; mend the reward, then start the "
                "same command again"
            )
        scored = collected.scored
        if stage.name != PPO and not scored.spread.any():
            ids = [record.example_id for record in collected.records]
            few = _few(processes.texts_of_all(ids, context.mesh))
            left = ", only the KL penalty does" if run.options.kl_coefficient else ""
            context.console.say(
                f"{stage.name} {step}: rewards differ in no group; they teach nothing{left}: {few}"
            )
        drawn += collected.draws * stage.batch_size
        run = run.sized(processes.fetch(scored.rollout.lengths))
        with watch.part(SCORES):
            batch, penalties = jax.block_until_ready(make_batch(run, state, reference, scored))
        with watch.part(UPDATE):
            state, metrics = jax.block_until_ready(update(run, state, batch, step))
        rewards = np.where(scored.known, scored.totals, np.nan)
        seen = Inspected(collected.records, scored.rollout, batch, rewards)
        found = finite(metrics, stage, step, seen)
        found |= {name: float(value) for name, value in penalties.items()}
        speed = step_speed(run, collected, state, batch, watch.lap())
        loop.write(step, found | collected.metrics | speed)
        loop.save(step + 1, state, Progress(drawn, run.sizes.chosen))
    return state


@dataclasses.dataclass(frozen=True)
class Collected:
    """The groups that a step learns from, with a report of each draw.

    Attributes:
      records: the records of all draws, so those of the prompts in `scored` too.
    """

    scored: ScoredRollout
    reports: list[DrawReport]
    records: list[Record]

    @property
    def draws(self) -> int:
        """The number of batches that were sampled."""
        return len(self.reports)

    @property
    def rewarded(self) -> bool:
        """Whether any sampled response has a reward, kept or not."""
        return any(bool(report.known.any()) for report in self.reports)

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all sampled responses, kept or not."""
        return rollout_metrics(self.reports)

    @property
    def problems(self) -> list[str]:
        """The reasons why responses have no reward."""
        return [problem for report in self.reports for problem in report.problems]


def collect(
    run: PolicyStage,
    policy: Policy,
    data: Iterator[list[Record]],
    drawn: int,
    watch: Stopwatch,
) -> Collected:
    """Sample and reward batches until enough groups have rewards that differ, or draws run out.

    An update learns nothing from a group whose rewards are equal, so more groups are drawn (DAPO,
    arXiv 2503.14476, section 3.2).

    Args:
      data: the records of each draw.
      drawn: records that the stage has drawn before.
      watch: counts the seconds of the parts.
    """
    kept: ScoredRollout | None = None
    reports: list[DrawReport] = []
    records: list[Record] = []
    # One resharded copy serves all draws; it is freed before the update.
    with watch.part(ROLLOUT):
        policy = for_rollout(policy)
    while kept is None or (len(reports) < run.max_draws and not kept.spread.all()):
        # The number of the draw in the stage, so that no two draws share their random numbers.
        draw = drawn // run.stage.batch_size + len(reports)
        with watch.part(DATA):
            batch = next(data)
            prompts, texts = prompts_and_texts(batch, run.prompt_length)
        records += batch
        with watch.part(ROLLOUT):
            # The texts are read, so the arrays are ready.
            rollout = sample(run, policy, prompts, keys_of(run, texts, draw))
        with watch.part(REWARD):
            scored, report = reward(run, rollout, texts)
            kept = scored if kept is None else first_with_spread(kept, scored, run.context)
        reports.append(report)
    return Collected(kept, reports, records)


def update(
    run: PolicyStage, state: LearnerState, batch: Batch, step: int
) -> tuple[LearnerState, Metrics]:
    """Make all updates on a batch; return the state after them and their mean metrics."""
    found = []
    for rows in minibatches(run, step):
        part = batch if rows is None else run.context.place(rows_of(batch, rows))
        packing = run.pack(processes.fetch(part.rollout.lengths))
        state, metrics = policy_update(state, part, packing=packing, **run.update_options)
        found.append(metrics | {"padding": padding_of(part.rollout, packing)})
    return state, jax.tree.map(lambda *values: sum(values) / len(values), *found)


def step_speed(
    run: PolicyStage,
    collected: Collected,
    state: LearnerState,
    batch: Batch,
    seconds: Mapping[str, float],
) -> dict[str, float]:
    """Return the metrics of a step's speed."""
    drawn = [report.tokens for report in collected.reports]
    critic = state.critic
    return {
        **seconds_metrics(seconds),
        **rollout_speed(run.context, drawn, seconds[ROLLOUT]),
        **update_speed(
            run.context,
            count_tokens(batch.rollout),
            seconds[UPDATE],
            epochs=run.options.epochs,
            separate_critic=critic is not None and critic.trunk is not None,
        ),
    }


def minibatches(run: PolicyStage, step: int) -> Iterator[np.ndarray | None]:
    """Yield the rows of each update, shuffled in each epoch; None stands for the whole batch."""
    for epoch in range(run.options.epochs):
        if run.options.minibatches == 1:
            yield None
            continue
        place = [run.seed, run.stage.number, step, epoch]
        order = np.random.default_rng(place).permutation(run.stage.batch_size)
        yield from np.split(order, run.options.minibatches)


def rows_of(batch: Batch, rows: np.ndarray) -> Batch:
    """Return some prompts of a batch, with all their responses."""
    return jax.tree.map(lambda x: x[rows], batch)


def _few(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
