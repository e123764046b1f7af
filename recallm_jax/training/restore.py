"""The policies of a run: the newest stage's newest checkpoint, or one by its name."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.config.kept import hold_to_config
from recallm_jax.policy import checkpoint, partitioning
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.stages import Stage, plan_stages
from rl.critic import init_critic
from rl.learner import LearnerState, init_state
from storage.files import Path

CHECKPOINTS = "checkpoints"
# Fields that, with a checkpoint's arrays, decide the policy: sizes that are not shapes, and the
# tokenizer.
WEIGHTS = ("model.weights", "model.rope_scaling")
# Without a checkpoint these too: the seed draws the new rows, or a whole random model.
START_WEIGHTS = (*WEIGHTS, "model.param_dtype", "seed")


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint of a run: the stage, and the number of steps made in it."""

    stage: Stage
    step: int

    @property
    def name(self) -> str:
        """The name that users give it: "grpo/20"."""
        return f"{self.stage.name}/{self.step}"

    @property
    def made_by(self) -> str:
        """The name in an evaluation's config: "grpo step 20"."""
        return f"{self.stage.name} step {self.step}"


def placed_state(policy: Policy, stage: Stage, context: Context) -> LearnerState:
    """Return the state before a stage's first update, on the mesh, in buffers of its own.

    Updates donate the buffers of their argument, and the policy before a stage is still needed.
    """
    state = jax.tree.map(jnp.copy, first_state(policy, stage))
    shardings = partitioning.state_shardings(state, context.policy.config, context.mesh)
    return processes.put(state, shardings)


def first_state(policy: Policy, stage: Stage) -> LearnerState:
    """Return the state before a stage's first update, on the policy's own buffers."""
    critic = None
    if stage.critic:
        trunk = policy if stage.critic == "own" else None
        critic = init_critic(policy.width, trunk)
    return init_state(policy, stage.optimizer, critic)


def hold_to_run(config: ConfigDict, workdir: Path, *, fields: Sequence[str]) -> None:
    """Refuse a config that differs from the run's own in `fields`, though shapes may agree.

    Raises:
      UserError: names the field and both values.
    """
    remedy = "give the run's own value, or another --workdir"
    hold_to_config(config, workdir, fields=fields, remedy=remedy)


def restore_policy(
    config: ConfigDict, context: Context, workdir: Path
) -> tuple[Policy, Stage, int]:
    """Return the newest policy of a run, its stage, and the number of steps of that stage.

    Nothing in the folder is changed: the run may still be going on.

    Raises:
      UserError: the run has no checkpoint, has one of another model, or began with other weights.
    """
    hold_to_run(config, workdir, fields=WEIGHTS)
    for stage in reversed(plan_stages(config, context)):
        folder = workdir / CHECKPOINTS / stage.name
        if not folder.exists():
            continue
        with checkpoint.open_reader(folder) as manager:
            state = placed_state(context.policy, stage, context)
            restored = checkpoint.restore_latest(manager, state)
        if restored is not None:
            return restored[0].policy, stage, restored[1]["step"]
    raise UserError(
        f"{workdir} holds no checkpoint of the stages {tuple(config.stages)}; "
        "train first, or name another --workdir"
    )


def saved_checkpoints(config: ConfigDict, context: Context, workdir: Path) -> list[Saved]:
    """Return the complete checkpoints of a run, in the order in which they were made.

    A checkpoint that is still being written is left out.
    """
    found = []
    for stage in plan_stages(config, context):
        folder = workdir / CHECKPOINTS / stage.name
        if folder.exists():
            with checkpoint.open_reader(folder) as manager:
                found += [Saved(stage, step) for step in sorted(manager.all_steps())]
    return found


def restore_saved(config: ConfigDict, context: Context, workdir: Path, saved: Saved) -> Policy:
    """Return the policy of one checkpoint; nothing in the folder is changed.

    Raises:
      UserError: it can't be read, is of another model, or began with other weights.
    """
    hold_to_run(config, workdir, fields=WEIGHTS)
    folder = workdir / CHECKPOINTS / saved.stage.name
    with checkpoint.open_reader(folder) as manager:
        state = placed_state(context.policy, saved.stage, context)
        try:
            return checkpoint.restore_step(manager, saved.step, state)[0].policy
        except checkpoint.Damaged as damaged:
            raise UserError(
                f"checkpoint {folder / str(saved.step)} can't be read ({damaged}); it is damaged, "
                "or the run has deleted it"
            ) from None
