"""The tiny run of all stages that one process trains for a whole test run."""

import fcntl
import pathlib
import shutil
import warnings
from typing import Any

import jax

from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.metrics import read_metrics
from recallm_jax.runtime.timing import is_timing
from recallm_jax.training.restore import restore_policy
from tests.oracles import even_tokens

CONFIG = (
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
    # High enough that the second step's policy is measurably not the reference.
    "--config.optimizer.learning_rate=1e-3",
)


def made_once(folder: pathlib.Path) -> pathlib.Path:
    """Train the run into a folder, if no other process of this test run has done so."""
    done = folder.with_suffix(".done")
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            # TensorBoard's writer and Orbax warn about their own insides.
            with even_tokens.rewarded(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert train.main([*CONFIG, f"--workdir={folder}"]) == 0
            done.touch()
    return folder


def newest_policy(workdir: pathlib.Path) -> tuple[Any, str, int]:
    """Return the policy of a run's newest checkpoint, with its stage and step."""
    config = load_config(CONFIG)
    policy, stage, step = restore_policy(config, set_up(config), workdir)
    return jax.device_get(policy), stage.name, step


def metrics_of(workdir: pathlib.Path, *stages: str) -> list[dict[str, Any]]:
    """Return the metrics of each step, of all stages or of some, without those that hold times."""
    rows = read_metrics(workdir / "metrics.jsonl")
    rows = [row for row in rows if not stages or row["stage"] in stages]
    return list(map(untimed, rows))


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of metrics without the fields that hold times."""
    return {name: value for name, value in row.items() if not is_timing(name)}
