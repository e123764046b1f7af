"""Runs of `tests/oracles/killed_train.py`, and the results that they must end with."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.training.restore import restore_policy
from storage.files import as_path
from tests.oracles.tiny_models import ROOT
from tests.oracles.tiny_run import metrics_of

STEPS = {"sft1": 3, "sft2": 4, "grpo": 10}
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
    "--config.optimizer.learning_rate=1e-3",
    *[f"--config.{stage}.steps={steps}" for stage, steps in STEPS.items()],
]


class Run:
    """A workdir, and the processes that train in it."""

    def __init__(self, workdir, cache: Path, scratch: Path, *, devices: int = 1):
        self.workdir, self.phase = str(workdir), scratch / "phase"
        self.environment = {
            **os.environ,
            # Compiled in little time, once for all processes.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, point: str = "none", count: int = 1, *options: str) -> subprocess.Popen:
        script = [sys.executable, "-m", "tests.oracles.killed_train", str(self.phase)]
        return subprocess.Popen(
            [*script, point, str(count), *CONFIG, f"--workdir={self.workdir}", *options],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, *arguments) -> tuple[int, str]:
        """Run to its end; return the code and what it printed."""
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=1800)
        return process.returncode, out

    def finish(self, *arguments) -> None:
        code, out = self.ended(*arguments)
        assert code == 0, out[-3000:]

    def doing(self) -> str:
        return self.phase.read_text().strip() if self.phase.exists() else "start"


def results(workdir) -> dict:
    """Return the results of a run: metrics without their times, rows, and arrays."""
    folder = as_path(str(workdir))
    files = {
        str(path).removeprefix(str(folder)): path.read_bytes()
        for pattern in ("config.json", "eval/*/*.json*")
        for path in folder.glob(pattern)
    }
    config = load_config(CONFIG)
    policy, stage, step = restore_policy(config, set_up(config), folder)
    assert (stage.name, step) == ("grpo", STEPS["grpo"])
    return {
        "metrics": metrics_of(folder),
        "files": files,
        "arrays": list(map(np.asarray, jax.tree.leaves(policy))),
    }


def assert_same(got: dict, wanted: dict) -> None:
    assert [(row["stage"], row["step"]) for row in got["metrics"]] == [
        (stage, step) for stage, steps in STEPS.items() for step in range(steps)
    ]
    assert got["metrics"] == wanted["metrics"]
    assert got["files"].keys() == wanted["files"].keys()
    for name, content in wanted["files"].items():
        assert got["files"][name] == content, name
    for x, y in zip(got["arrays"], wanted["arrays"], strict=True):
        np.testing.assert_array_equal(x, y)
