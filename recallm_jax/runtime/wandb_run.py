"""A run of Weights & Biases, if a config asks for one; it has the curves that TensorBoard has."""

import tempfile
import uuid
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.runtime.errors import TryAgain, UserError
from recallm_jax.runtime.tensorboard import Point
from storage.files import Path, is_remote, read_text, write_whole

# The id of the run, so that a job that goes on adds to it.
FILE = "wandb_run.txt"
# Seconds for what is not sent yet when a job ends; `wandb sync` sends the rest.
_MOST_AT_THE_END = 60.0


class WandbRun:
    """Gets the points of a run; each stage has steps of its own."""

    def __init__(self, run: Any):
        self._run = run
        self._stages: set[str] = set()

    def add(self, point: Point) -> None:
        """Add a point to each curve that it names, over the steps of its stage."""
        (stage,) = {name.partition("/")[0] for name in point.values}
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": point.step, **point.values})

    def close(self) -> None:
        """Wait a minute at most until all points are sent, or written in offline mode."""
        self._run.finish()


def wandb_run(project: str, config: ConfigDict, workdir: Path) -> WandbRun:
    """Start a run in a project, or go on with the one that the workdir names.

    W&B's own environment variables count: WANDB_MODE=offline sends nothing.

    Raises:
      UserError: wandb is not installed, or does not start.
      TryAgain: its server can't be reached.
    """
    try:
        import wandb
        from wandb.errors import AuthenticationError, CommError
    except ImportError:
        raise UserError(
            f"config.tracking.wandb_project = {project!r} needs wandb: "
            "pip install -e '.[wandb]' -c constraints.txt, or leave the field empty"
        ) from None
    if not (workdir / FILE).exists():
        write_whole(workdir / FILE, uuid.uuid4().hex[:8])
    # W&B writes its own files to a local folder.
    folder = tempfile.mkdtemp(prefix="wandb-") if is_remote(workdir) else workdir
    try:
        run = wandb.init(
            project=project,
            id=read_text(workdir / FILE),
            resume="allow",
            name=workdir.name,
            dir=str(folder),
            config=config.to_dict(),
            settings=wandb.Settings(console="off", silent=True, finish_timeout=_MOST_AT_THE_END),
        )
    except wandb.Error as error:
        passing = isinstance(error, CommError) and not isinstance(error, AuthenticationError)
        if passing:
            raise TryAgain(f"Weights & Biases can't be reached ({error})") from None
        raise UserError(
            f"Weights & Biases does not start ({error}); run `wandb login`, set "
            "WANDB_MODE=offline, or leave config.tracking.wandb_project empty"
        ) from None
    return WandbRun(run)
