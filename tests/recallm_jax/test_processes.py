"""Several processes train, save and evaluate as one does, and end together."""

import json
import pathlib

import jax
import numpy as np
import pytest

from recallm_jax.config import load_config
from recallm_jax.metric_writer import read_metrics
from recallm_jax.restore_policy import restore_policy
from recallm_jax.setup_policy import set_up
from tests.oracles.processes_here import finish, start

# TensorBoard's writer and Orbax warn about their own insides.
pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.data.mixture.math_retrieval=0",
    "--config.decoding.max_new_tokens=24",
    "--config.grpo.prompts_per_step=4",
    "--config.grpo.micro_batch=4",
    # As training samples, so that nothing more is compiled.
    "--config.evaluation.modes=('constrained-sampled',)",
    "--config.evaluation.temperature=1.0",
    "--config.evaluation.top_p=1.0",
    "--config.evaluation.samples=2",
    "--config.evaluation.num_examples=3",
    "--config.evaluation.batch_size=4",
    # High enough that a step's policy is measurably another; and Adam's steps are then proportional
    # to small gradients, so that rounding does not decide the sign of whole steps.
    "--config.optimizer.learning_rate=0.1",
    "--config.optimizer.eps=1e-2",
]


def run(arguments, *, count, devices=1, seconds=300, **variables):
    given = [*arguments, *["--distributed"] * (count > 1)]
    processes = start("train_with_spread.py", given, count=count, devices=devices, **variables)
    return finish(processes, seconds)


def assert_same_run(got: pathlib.Path, expected: pathlib.Path, arguments) -> None:
    """Compare metrics and parameters to 1e-5, and evaluation rows exactly."""
    rows, wanted = (read_metrics(folder / "metrics.jsonl") for folder in (got, expected))
    assert len(rows) == len(wanted) > 0
    for row, other in zip(rows, wanted, strict=True):
        assert row.pop("time") and other.pop("time")
        assert row["stage"] == other["stage"]
        numbers = {name: value for name, value in other.items() if name != "stage"}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-7)
    # The last policy is another than the first.
    assert wanted[-1]["grad_norm"] > 1e-3 and wanted[-1]["groups_with_spread"] > 0
    config = load_config([*arguments, "--config.mesh.data=1", "--config.mesh.fsdp=1"])
    setup = set_up(config)
    policies = [
        jax.device_get(jax.tree.leaves(restore_policy(config, setup, folder)[0]))
        for folder in (got, expected)
    ]
    moved = False
    for array, other, first in zip(*policies, jax.tree.leaves(setup.policy), strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-5, atol=1e-5 * abs(other).max())
        moved |= bool(abs(other - np.asarray(first)).max() > 1e-4)
    assert moved
    files = sorted(path.relative_to(expected) for path in expected.glob("eval/*/*.jsonl"))
    assert files and files == sorted(path.relative_to(got) for path in got.glob("eval/*/*.jsonl"))
    for file in files:
        assert (got / file).read_text() == (expected / file).read_text()
        assert len((got / file).read_text().splitlines()) == 6


def checkpoints(folder: pathlib.Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("checkpoints/*/*"))


def test_two_processes_train_and_evaluate_as_one_does(tmp_path):
    arguments = [*CONFIG, "--config.stages=('grpo',)", "--config.mesh.fsdp=2"]
    two = run([*arguments, f"--workdir={tmp_path / 'two'}"], count=2)
    assert [code for code, *_ in two] == [0, 0], two
    one = run([*arguments, f"--workdir={tmp_path / 'one'}"], count=1, devices=2)
    assert one[0][0] == 0, one
    assert_same_run(tmp_path / "two", tmp_path / "one", arguments)
    assert checkpoints(tmp_path / "two") == ["checkpoints/grpo/1", "checkpoints/grpo/2"]
    # The second one has nothing to say.
    assert "exact match" in two[0][1] and two[1][1] == ""
    machine = json.loads((tmp_path / "two" / "machine.json").read_text())
    assert machine["devices"] == "2 x cpu"


def test_rows_are_split_and_gathered_and_a_failure_ends_all():
    ended = finish(start("rows_of_processes.py", [], count=2, devices=2), 120)
    assert [out for _, out, _ in ended] == ["checked\n"] * 2, ended
    assert [code for code, *_ in ended] == [2, 2]
    assert ended[1][2].splitlines()[-1] == "error: config.seed = -1 is no seed"
    last = ended[0][2].splitlines()[-1]
    assert last == "error: process 1 ended the job: config.seed = -1 is no seed"
