"""The tiny run of all stages that one process trains for a whole test run."""

import contextlib
import fcntl
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.metrics import read_metrics
from recallm_jax.training import rollouts
from recallm_jax.training.restore import restore_policy
from tests.oracles import even_tokens

CONFIG = (
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
    # High enough that the second step's policy is measurably not the reference.
    "--config.optimizer.learning_rate=1e-3",
)


@contextlib.contextmanager
def reward_with_spread() -> Iterator[None]:
    """Reward what a random model can do: GRPO learns nothing from responses that all get 0."""
    reward_groups = rollouts.reward_groups

    def share_of_even_tokens(rollout, *arguments, **options):
        return even_tokens.rewarded(rollout, reward_groups(rollout, *arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "reward_groups", share_of_even_tokens)
        yield


def made_once(folder: pathlib.Path) -> pathlib.Path:
    """Train the run into a folder, if no other process of this test run has done so."""
    done = folder.with_suffix(".done")
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            # TensorBoard's writer and Orbax warn about their own insides.
            with reward_with_spread(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert train.main([*CONFIG, f"--workdir={folder}"]) == 0
            done.touch()
    return folder


def newest_policy(workdir: pathlib.Path) -> tuple[Any, str, int]:
    """Return the policy of a run's newest checkpoint, with its stage and step."""
    config = load_config(CONFIG)
    policy, stage, step = restore_policy(config, set_up(config), workdir)
    return jax.device_get(policy), stage.name, step


def metrics_of(workdir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
    """Return the metrics of each step, without the time they were written at."""
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if row["stage"] == stage]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]
