"""Weights & Biases gets the curves of a run, read back from what its offline mode writes."""

import builtins
import itertools
import json
import os
import struct
import subprocess
import sys
import time

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.runtime.errors import TryAgain, UserError
from recallm_jax.runtime.metrics import MetricWriter
from recallm_jax.runtime.tensorboard import Point
from recallm_jax.runtime.wandb_run import wandb_run

CONFIG = ["--config=configs/quickstart.py:tiny", "--config.tracking.wandb_project=recall"]


@pytest.fixture
def config():
    return load_config(CONFIG)


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")


def chunks(data):
    """Yield the records of a file in LevelDB's log format, after W&B's own header."""
    block, header = 32_768, 7
    parts, at = [], header
    while at + header <= len(data):
        if block - at % block < header:
            at += block - at % block
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts.append(data[at + header : at + header + length])
        at += header + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def kept(workdir, most=30.0):
    """Return the records that offline runs left in a folder, once W&B's process has ended them."""
    from wandb.proto import wandb_internal_pb2

    paths = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
    until = time.monotonic() + most
    while time.monotonic() < until:
        runs = [
            [wandb_internal_pb2.Record.FromString(data) for data in chunks(path.read_bytes())]
            for path in paths
        ]
        if runs and all(run and run[-1].HasField("exit") for run in runs):
            return list(itertools.chain(*runs))
        time.sleep(0.2)
    pytest.fail(f"a run did not end within {most} seconds")


def history(workdir):
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in h.item}
        for record in kept(workdir)
        if (h := record.history).item
    ]


@pytest.mark.usefixtures("offline")
def test_steps_and_evaluations_arrive_with_the_config(tmp_path, config):
    with MetricWriter(tmp_path, wandb_run("recall", config, tmp_path)) as writer:
        writer.write("sft2", 3, {"loss": 0.5})
        writer.track(Point(4, 1.0, {"evaluation/retrieval/exact_match": 0.75}))
    rows = history(tmp_path)
    assert rows[0]["sft2/loss"] == 0.5 and rows[0]["sft2/step"] == 3
    assert rows[1]["evaluation/retrieval/exact_match"] == 0.75 and rows[1]["evaluation/step"] == 4
    (run,) = [record.run for record in kept(tmp_path) if record.run.run_id]
    assert run.project == "recall" and run.display_name == tmp_path.name
    values = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert values["grpo"]["group_size"] == config.grpo.group_size


@pytest.mark.usefixtures("offline")
def test_a_job_that_goes_on_adds_to_the_same_run(tmp_path, config):
    for step in range(2):
        with MetricWriter(tmp_path, wandb_run("recall", config, tmp_path)) as writer:
            writer.write("grpo", step, {"reward": 0.25})
    ids = {record.run.run_id for record in kept(tmp_path) if record.run.run_id}
    assert ids == {(tmp_path / "wandb_run.txt").read_text()}
    assert [row["grpo/step"] for row in history(tmp_path)] == [0, 1]


def test_without_wandb_the_field_is_refused(tmp_path, config, monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == "wandb":
            raise ImportError("No module named 'wandb'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(UserError) as caught:
        wandb_run("recall", config, tmp_path)
    assert str(caught.value) == (
        "config.tracking.wandb_project = 'recall' needs wandb: pip install -e '.[wandb]' "
        "-c constraints.txt, or leave the field empty"
    )


@pytest.mark.parametrize(("name", "kind"), [("CommError", TryAgain), ("UsageError", UserError)])
def test_a_server_that_is_down_is_no_mistake_of_the_user(name, kind, tmp_path, config, monkeypatch):
    wandb = pytest.importorskip("wandb")
    errors = pytest.importorskip("wandb.errors")

    def refuse(**options):
        raise getattr(errors, name)("no answer")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(kind, match="no answer"):
        wandb_run("recall", config, tmp_path)


def test_without_an_account_it_says_what_to_do(tmp_path):
    pytest.importorskip("wandb")
    code = (
        "import pathlib, sys; from ml_collections import ConfigDict;"
        "from recallm_jax.runtime.wandb_run import wandb_run;"
        "from recallm_jax.runtime.errors import run_job;"
        "sys.exit(run_job(lambda _: wandb_run('recall', ConfigDict(), pathlib.Path(sys.argv[1]))))"
    )
    # Credentials are looked for in the home, and kept for the whole process.
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: Weights & Biases does not start (")
    assert "run `wandb login`, set WANDB_MODE=offline" in line
