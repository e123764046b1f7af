"""The checkpoints of one stage: the step at which it resumes, and when it saves."""

import contextlib
import dataclasses
from collections.abc import Iterator

import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from decoding.packing import RowSize
from recallm_jax.models.finite import LARGEST, unusable_names
from recallm_jax.policy import checkpoint
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.termination import Termination
from recallm_jax.training.bad_batch import REMEDY
from recallm_jax.training.restore import CHECKPOINTS, frozen_sums, restored_latest
from recallm_jax.training.stages import Progress, Stage
from rl.learner import LearnerState, changed_part, trained_of
from storage.files import Path


@dataclasses.dataclass(frozen=True)
class Saver:
    """Restores and saves the states of a stage.

    Attributes:
      every_steps: steps from one checkpoint to the next; the last step is saved too.
      termination: whether SIGTERM came; if so, the step is saved and the run stops.
    """

    manager: ocp.CheckpointManager
    stage: Stage
    every_steps: int
    termination: Termination
    mesh: Mesh

    def restore(self, state: LearnerState) -> tuple[LearnerState, int, Progress]:
        """Return the state to go on from, its step, and the progress of the steps before.

        If nothing is saved, this is the given state, before the first step.
        """
        restored = restored_latest(self.manager, state, set_aside=True)
        if restored is None:
            return state, 0, Progress()
        state, metadata = restored
        step = metadata["step"]
        drawn = metadata.get("drawn", step * self.stage.batch_size)
        row_sizes = tuple(RowSize(*size) for size in metadata.get("row_sizes", ()))
        return state, step, Progress(drawn, row_sizes)

    def save(
        self, step: int, state: LearnerState, progress: Progress, *, now: bool = False
    ) -> None:
        """Save the state before a step if a checkpoint is due, SIGTERM came, or `now`.

        Raises:
          Terminated: SIGTERM came; the state is saved.
          UserError: a parameter is not a number to compute with; nothing is saved.
        """
        # All processes stop at the step in which one of them is asked to.
        asked = self.termination.requested = processes.any_of(self.termination.requested, self.mesh)
        due = step % self.every_steps == 0 or step == self.stage.steps
        saved = False
        if now:
            checkpoint.finish(self.manager)
            saved = self.manager.latest_step() == step
        if (due or now or asked) and not saved:
            _check_usable(state, self.stage.name, step)
            at = {"stage": self.stage.name, "step": step}
            metadata = at | dataclasses.asdict(progress) | frozen_sums(state)
            checkpoint.save(self.manager, step, changed_part(state), metadata)
        if now or asked:
            checkpoint.finish(self.manager)
        if asked:
            self.termination.stop_if_requested()

    def finish(self) -> None:
        """Wait until the last checkpoint is whole."""
        checkpoint.finish(self.manager)


def _check_usable(state: LearnerState, stage: str, step: int) -> None:
    """Refuse a state whose parameters its last update made NaN, infinite or too large.

    The metrics of an update are those of the parameters before it.
    """
    names = unusable_names(trained_of(state))
    if names:
        raise UserError(
            f"parameter {names[0]} of {stage} holds NaN, infinity, or a value above {LARGEST:.1e} "
            f"after step {step - 1}, so no checkpoint of it is saved; {REMEDY}"
        )


@contextlib.contextmanager
def open_saver(
    config: ConfigDict, context: Context, stage: Stage, workdir: Path, termination: Termination
) -> Iterator[Saver]:
    """Open the checkpoints of a stage for a `with` block."""
    folder = workdir / CHECKPOINTS / stage.name
    with checkpoint.open_manager(folder, keep=config.checkpoint.keep) as manager:
        yield Saver(manager, stage, config.checkpoint.every_steps, termination, context.mesh)
