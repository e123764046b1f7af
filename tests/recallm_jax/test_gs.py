"""Runs on gs://: checkpoints, evaluations, reports, weights and records, through an emulator."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax import convert, evaluate, generate, prepare, probe, report, train
from recallm_jax.config.load import load_config
from recallm_jax.policy import checkpoint
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.metrics import MetricWriter, read_metrics
from recallm_jax.runtime.profiling import traced
from recallm_jax.weights import hugging_face
from recallm_jax.weights.hugging_face import TokenizerFiles
from recallm_jax.weights.served_template import served_template
from recallm_jax.weights.source import load_policy
from storage import files
from tests.oracles.event_files import curves
from tests.oracles.fake_run import write_run
from tests.oracles.gcs_tls import proxied
from tests.oracles.killed_runs import CONFIG, STEPS, Run, assert_same, results

pytestmark = pytest.mark.filterwarnings("ignore")


def put(gcs, bucket: str, local, name: str) -> None:
    """Copy a local folder to gs://."""
    for path in sorted(local.rglob("*")):
        if path.is_file():
            files.as_path(f"{bucket}/{name}/{path.relative_to(local)}").write_bytes(
                path.read_bytes()
            )


def state(scale: float) -> dict:
    return {"w": scale * jnp.arange(12.0).reshape(3, 4), "key": jax.random.key(int(scale))}


def save(folder: str, scales, keep: int = 3) -> None:
    with checkpoint.open_manager(folder, keep=keep) as manager:
        for scale in scales:
            checkpoint.save(manager, scale, state(scale), {"at": scale})
        checkpoint.finish(manager)


def restore(folder: str, *, set_aside: bool = True):
    opened = (
        checkpoint.open_manager(folder, keep=3) if set_aside else checkpoint.open_reader(folder)
    )
    with opened as manager:
        return checkpoint.restore_latest(manager, state(0), set_aside=set_aside)


def steps(folder: str) -> list[str]:
    return sorted(path.name for path in files.as_path(folder).iterdir())


def test_the_newest_checkpoint_comes_back_and_old_ones_go(bucket):
    folder = f"{bucket}/run/checkpoints/grpo"
    assert restore(folder) is None
    save(folder, [1, 2, 3], keep=2)
    found, metadata = restore(folder, set_aside=False)
    assert metadata == {"at": 3}
    np.testing.assert_array_equal(found["w"], state(3)["w"])
    assert jax.random.bits(found["key"]) == jax.random.bits(state(3)["key"])
    assert steps(folder) == ["2", "3"]


def test_a_checkpoint_that_was_being_written_is_not_used(bucket):
    folder = f"{bucket}/run/checkpoints/grpo"
    save(folder, [1, 2])
    (files.as_path(folder) / "2" / "commit_success.txt").unlink()
    assert restore(folder, set_aside=False)[1] == {"at": 1}
    # A writer removes it, and saves the step again.
    save(folder, [2])
    assert restore(folder)[1] == {"at": 2}


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(bucket, gcs, capfd):
    folder = f"{bucket}/run/checkpoints/grpo"
    save(folder, [1, 2])
    name = bucket.removeprefix("gs://")
    arrays = [found for found in gcs.names(name) if "/2/arrays/" in found and "/d/" in found]
    for found in arrays:
        gcs.write(name, found, gcs.read(name, found)[:-7])
    assert arrays
    assert restore(folder)[1] == {"at": 1}
    said = capfd.readouterr().err
    assert f"checkpoint {folder}/2 is damaged" in said and "is now called 2.damaged" in said
    assert steps(folder) == ["1", "2.damaged"]
    save(folder, [2])
    assert restore(folder)[1] == {"at": 2}


def test_a_fault_of_the_network_is_not_taken_for_damage(bucket, gcs):
    folder = f"{bucket}/run/checkpoints/grpo"
    save(folder, [1, 2])
    gcs.faults["%2F2%2Farrays"] = [403, None]
    with pytest.raises(Exception, match=r"403|PERMISSION_DENIED|Forbidden"):
        restore(folder)
    gcs.faults.clear()
    assert steps(folder) == ["1", "2"]
    assert restore(folder)[1] == {"at": 2}


def test_a_report_and_new_scores_equal_those_of_the_same_run_in_a_local_folder(
    bucket, gcs, tmp_path, capsys
):
    write_run(tmp_path / "run", examples=2)
    put(gcs, bucket, tmp_path / "run", "run")
    arguments = ["--config=configs/quickstart.py:tiny", "--label=grpo", "--rescore"]
    for workdir in (tmp_path / "run", f"{bucket}/run"):
        assert evaluate.main([*arguments, f"--workdir={workdir}"]) == 0
        assert report.main([f"--workdir={workdir}", f"--figure={workdir}/run.png"]) == 0
    assert capsys.readouterr().out.endswith(f"report: {bucket}/run/report.html\n")
    for path in sorted((tmp_path / "run").rglob("*")):
        remote = files.as_path(f"{bucket}/run/{path.relative_to(tmp_path / 'run')}")
        if "tfevents" in path.name:
            # An event file is named by when and where it was written.
            (found,) = remote.parent.glob("events*")
            (tmp_path / "remote").mkdir()
            (tmp_path / "remote" / found.name).write_bytes(found.read_bytes())
            assert curves(tmp_path / "remote") == curves(path.parent) != {}
        elif path.is_file():
            # The page states the minute in which it was made.
            same = len if path.name == "report.html" else bytes
            assert same(remote.read_bytes()) == same(path.read_bytes()), path
    assert evaluate.main([*arguments[:1], "--label=none", "--rescore", f"--workdir={bucket}"]) == 2
    assert f"{bucket}/eval/none holds no rows; evaluate first" in capsys.readouterr().err


def test_metrics_and_tensorboard_files_arrive(bucket, tmp_path):
    folder = files.as_path(f"{bucket}/run")
    with MetricWriter(folder) as writer:
        for step in range(3):
            writer.write("grpo", step, {"reward": step})
            assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == step
    with MetricWriter(folder) as writer:
        writer.resume("grpo", 1)
        writer.write("grpo", 1, {"reward": 7})
    rows = read_metrics(folder / "metrics.jsonl")
    assert [(row["step"], row["reward"]) for row in rows] == [(0, 0.0), (1, 7.0)]
    (events,) = (folder / "tensorboard").glob("events*")
    (tmp_path / events.name).write_bytes(events.read_bytes())
    assert curves(tmp_path) == {"grpo/reward": [(0, 0.0), (1, 7.0)]}


@pytest.mark.slow
def test_tensorboard_itself_reads_the_bucket(gcs, bucket, tmp_path):
    with MetricWriter(f"{bucket}/run") as writer:
        for step in range(3):
            writer.write("grpo", step, {"reward": step / 4})
    code = (
        "import json, sys; from tests.oracles.event_files import curves;"
        "print(json.dumps(curves(sys.argv[1])))"
    )
    with proxied(gcs, tmp_path) as variables:
        # In a process of its own, because TensorFlow's client reads the environment only once.
        done = subprocess.run(
            [sys.executable, "-c", code, f"{bucket}/run/tensorboard"],
            env={**os.environ, "PYTHONPATH": ".", **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"grpo/reward": [[0, 0.0], [1, 0.25], [2, 0.5]]}


def test_a_trace_arrives_also_of_steps_that_were_interrupted(bucket, monkeypatch):
    local = []

    def start(folder, **options):
        local.append(pathlib.Path(folder))

    def stop():
        folder = local[-1] / "plugins" / "profile" / f"time_{len(local)}"
        folder.mkdir(parents=True)
        (folder / "host.xplane.pb").write_bytes(b"trace")

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    folder = files.as_path(f"{bucket}/run/profile")
    assert list(traced(range(3), range(1, 2), "grpo", folder)) == [0, 1, 2]
    with contextlib.closing(traced(range(3), range(3), "grpo", folder)) as some:
        assert next(some) == 0
    for number in (1, 2):
        path = folder / "plugins" / "profile" / f"time_{number}" / "host.xplane.pb"
        assert path.read_bytes() == b"trace"
    assert not any(folder.exists() for folder in local)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A local Hugging Face folder of a small model."""
    context = set_up(load_config(CONFIG))
    tokenizer = context.tokenizer
    folder = tmp_path_factory.mktemp("weights") / "model"
    ends = (tokenizer.eos_token, tokenizer.bos_token)
    saved = TokenizerFiles(tokenizer.to_json(), tokenizer.chat_template, *ends)
    hugging_face.save(context.policy, folder, saved)
    return folder


def test_weights_go_to_gs_and_come_back(weights, bucket, gcs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    put(gcs, bucket, weights, "model")
    out = f"{bucket}/converted"
    assert convert.main([f"--source={bucket}/model", f"--out={out}"]) == 0
    wanted, got = load_policy(weights), load_policy(out)
    template = served_template(wanted.tokenizer.tokenizer(), thinking=True)
    assert got.tokenizer == dataclasses.replace(wanted.tokenizer, chat_template=template)
    jax.tree.map(np.testing.assert_array_equal, got.model, wanted.model)

    def fetched() -> int:
        return len([path for _, path in gcs.requests if "alt=media" in path])

    # The copy is used again, and fetched again if the source has changed.
    before = fetched()
    load_policy(out)
    assert fetched() == before > 0
    settings = files.as_path(out) / "tokenizer_config.json"
    changed = json.loads(settings.read_bytes()) | {"chat_template": "{{ messages }}"}
    files.write_whole(settings, json.dumps(changed))
    assert load_policy(out).tokenizer.chat_template == "{{ messages }}"
    assert convert.main([f"--source={bucket}/model", f"--out={out}"]) == 2
    assert f"{out} exists already; give a new folder" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"{bucket}/none holds no weights; give a Hugging Face"):
        load_policy(f"{bucket}/none")
    # The unfinished folder of a killed conversion is refused.
    (files.as_path(out) / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_policy(out)


@pytest.mark.slow
def test_a_killed_run_on_gs_ends_like_a_whole_one_in_a_local_folder(bucket, gcs, tmp_path, capsys):
    local = Run(tmp_path / "local", tmp_path / "cache", tmp_path)
    local.finish()
    remote = Run(f"{bucket}/run", tmp_path / "cache", tmp_path)
    for point, count in (("evaluation", 3), ("metrics", 5), ("save", 9), ("rollout", 6)):
        process = remote.start(point, count)
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == -signal.SIGKILL, out[-3000:]
    remote.finish()
    wanted, got = results(local.workdir), results(remote.workdir)
    assert_same(got, wanted)
    workdir = f"--workdir={bucket}/run"
    assert evaluate.main([*CONFIG, workdir, "--label=again"]) == 0
    for path in (files.as_path(remote.workdir) / "eval" / "again").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        there = got["files"][f"/eval/grpo/{path.name}"].splitlines()
        assert [row | {"label": "grpo"} for row in rows] == list(map(json.loads, there))
    assert report.main([workdir]) == 0
    assert convert.main([*CONFIG, workdir, f"--out={bucket}/weights"]) == 0
    document = files.as_path(bucket) / "document.txt"
    files.write_whole(document, "The lamp was lit in 1874.\n")
    question = [f"--document={document}", "--question=When?", "--quote_first"]
    assert generate.main([*CONFIG, workdir, *question]) == 0
    assert "recall span 1" in capsys.readouterr().out
    assert probe.main([*CONFIG, workdir, "--checkpoint", f"--figure={bucket}/probe.png"]) == 0
    assert f"grpo_step{STEPS['grpo']}" not in "".join(gcs.names(bucket.removeprefix("gs://")))


@pytest.mark.slow
def test_prepared_records_on_gs_train_as_generated_ones_do(bucket, tmp_path):
    short = [*CONFIG, "--config.stages=('sft1',)", "--config.sft1.steps=2"]
    assert prepare.main([*short, f"--out={bucket}/records", "--num_train=8"]) == 0
    source = f"--config.data.source=jsonl:{bucket}/records/train.jsonl"
    assert train.main([*short, f"--workdir={tmp_path / 'generated'}"]) == 0
    assert train.main([*short, source, f"--workdir={bucket}/prepared"]) == 0
    wanted, got = (
        [row["loss"] for row in read_metrics(files.as_path(f"{folder}/metrics.jsonl"))]
        for folder in (tmp_path / "generated", f"{bucket}/prepared")
    )
    assert got == wanted and len(got) == 2
