"""The policies of a run: the newest stage's newest checkpoint, or one by its name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.config.kept import hold_to_config
from recallm_jax.policy import checkpoint, partitioning
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.stages import Stage, plan_stages
from rl.critic import init_critic
from rl.learner import LearnerState, changed_part, init_state, with_changed
from storage.files import Path

CHECKPOINTS = "checkpoints"
# In a checkpoint's metadata: the sums of arrays that are not in it.
FROZEN = "frozen"
# Fields that, with a checkpoint's arrays, decide the policy: sizes that are not shapes, such as the
# scale of adapters, and the tokenizer.
WEIGHTS = ("model.weights", "model.rope_scaling", "model.lora.")
# Without a checkpoint these too: the seed draws the new rows, or a whole random model.
START_WEIGHTS = (*WEIGHTS, "model.adapter", "model.param_dtype", "seed")


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

    Updates donate the buffers of what they change, and the policy before a stage is still needed.
    """
    state = first_state(policy, stage)
    changed = jax.tree.map(jnp.copy, changed_part(state))
    shardings = partitioning.state_shardings(changed, context.policy.config, context.mesh)
    return with_changed(state, processes.put(changed, shardings))


def restored_latest(
    manager: ocp.CheckpointManager, state: LearnerState, *, set_aside: bool = False
) -> tuple[LearnerState, dict[str, Any]] | None:
    """Return the newest checkpoint's state and metadata, with the frozen arrays of `state`.

    None stands for a folder without a checkpoint.

    Raises:
      UserError: see `checkpoint.restore_latest`; or the frozen arrays are not those of the run.
    """
    restored = checkpoint.restore_latest(manager, changed_part(state), set_aside=set_aside)
    return restored and _whole(state, *restored)


def _whole(
    state: LearnerState, changed: LearnerState, metadata: dict[str, Any]
) -> tuple[LearnerState, dict[str, Any]]:
    if metadata.get(FROZEN, {}) != frozen_sums(state).get(FROZEN, {}):
        raise UserError(
            "the run's adapters belong to other weights than those that config.model.weights, "
            "config.model.param_dtype and config.seed give now; give the ones it began with"
        )
    return with_changed(state, changed), metadata


def frozen_sums(state: LearnerState) -> dict[str, dict[str, int]]:
    """Return sums of the bits of a policy's frozen arrays, for a checkpoint without these arrays.

    A policy that is trained whole has none: {}.
    """
    policy = state.policy
    trained = {id(x) for x in jax.tree.leaves(policy.trained())}
    frozen = {
        jax.tree_util.keystr(path, simple=True, separator="."): x
        for path, x in jax.tree.leaves_with_path(policy)
        if id(x) not in trained
    }
    return {FROZEN: checkpoint.checksums(frozen)} if frozen else {}


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
            restored = restored_latest(manager, state)
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
            restored = checkpoint.restore_step(manager, saved.step, changed_part(state))
            return _whole(state, *restored)[0].policy
        except checkpoint.Damaged as damaged:
            raise UserError(
                f"checkpoint {folder / str(saved.step)} can't be read ({damaged}); it is damaged, "
                "or the run has deleted it"
            ) from None
