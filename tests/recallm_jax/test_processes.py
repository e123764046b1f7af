"""Several processes train, save and evaluate like a single one, and end together."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime import peers
from recallm_jax.runtime.errors import run_job
from recallm_jax.runtime.metrics import read_metrics
from recallm_jax.training.restore import restore_policy
from tests.oracles.processes_here import FOLDER, finish, start
from tests.oracles.tiny_run import untimed

# TensorBoard's writer and Orbax warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.data.mixture.math_retrieval=0",
    "--config.decoding.max_new_tokens=24",
    "--config.grpo.prompts_per_step=4",
    "--config.grpo.micro_batch=4",
    # The mode in which training samples, so that nothing more is compiled.
    "--config.evaluation.modes=('constrained-sampled',)",
    "--config.evaluation.temperature=1.0",
    "--config.evaluation.top_p=1.0",
    "--config.evaluation.samples=2",
    "--config.evaluation.num_examples=3",
    "--config.evaluation.batch_size=4",
    # High enough that a step changes the policy measurably; and Adam's steps are then proportional
    # to small gradients, so that rounding does not decide the sign of whole steps.
    "--config.optimizer.learning_rate=0.1",
    "--config.optimizer.eps=1e-2",
]


def run(arguments, *, count, devices=1, job="train_with_spread.py", seconds=1500, **variables):
    """Return exit code, stdout and stderr of each process."""
    command = [str(FOLDER / job)] if job.endswith(".py") else ["-m", job]
    command += [*arguments, *["--distributed"] * (count > 1)]
    return finish(start(command, count=count, devices=devices, **variables), seconds)


def succeed(arguments, **options):
    """Run the processes; return what the first one printed."""
    ended = run(arguments, **options)
    assert [code for code, *_ in ended] == [0] * options["count"], ended
    # The others have nothing to say.
    assert [out for _, out, _ in ended[1:]] == [""] * (options["count"] - 1)
    return ended[0][1]


def assert_same_run(got: pathlib.Path, expected: pathlib.Path, arguments) -> None:
    """Compare metrics and parameters to 1e-5, and evaluation rows exactly."""
    rows, wanted = (read_metrics(folder / "metrics.jsonl") for folder in (got, expected))
    assert len(rows) == len(wanted) > 0
    for row, other in zip(map(untimed, rows), map(untimed, wanted), strict=True):
        assert row["stage"] == other["stage"]
        numbers = {name: value for name, value in other.items() if name != "stage"}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-7)
    # The last policy differs from the first.
    assert wanted[-1]["grad_norm"] > 1e-3 and wanted[-1]["groups_with_spread"] > 0
    config = load_config([*arguments, "--config.mesh.data=1", "--config.mesh.fsdp=1"])
    context = set_up(config)
    policies = [
        jax.device_get(jax.tree.leaves(restore_policy(config, context, folder)[0]))
        for folder in (got, expected)
    ]
    moved = False
    for array, other, first in zip(*policies, jax.tree.leaves(context.policy), strict=True):
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


GRPO = [*CONFIG, "--config.stages=('grpo',)", "--config.mesh.fsdp=2"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of one process on two devices."""
    folder = tmp_path_factory.mktemp("one")
    succeed([*GRPO, f"--workdir={folder}"], count=1, devices=2)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same run, of two processes with a device each."""
    folder = tmp_path_factory.mktemp("two")
    out = succeed([*GRPO, f"--workdir={folder}"], count=2)
    assert "exact match" in out
    return folder


@pytest.mark.slow
def test_two_processes_train_and_evaluate_like_one(one, two):
    assert_same_run(two, one, GRPO)
    assert checkpoints(two) == ["checkpoints/grpo/1", "checkpoints/grpo/2"]
    assert json.loads((two / "machine.json").read_text())["devices"] == "2 x cpu"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "stages", "overrides", "count", "devices"),
    [
        # Draws on until groups differ; the hosts have different groups.
        ("dapo", ("grpo",), ["mesh.data=2", "mesh.fsdp=2"], 4, 1),
        ("ppo", ("ppo",), ["mesh.fsdp=2", "mesh.tensor=2"], 2, 2),
        # Both processes hold all prompts.
        ("grpo", ("sft2", "grpo"), ["mesh.tensor=2"], 2, 1),
        # Each part has prompts of both.
        ("grpo", ("grpo",), ["mesh.fsdp=2", "grpo.rollout_parts=2"], 2, 1),
        # From SeqIO's mixture each makes only its own examples.
        ("grpo", ("grpo",), ["mesh.fsdp=2", "data.source=seqio"], 2, 1),
        # Two pairs of processes: both of a pair hold the same prompts, each a part of the tokens.
        ("grpo", ("grpo",), ["mesh.fsdp=2", "mesh.sequence=2", "data.source=seqio"], 4, 1),
    ],
)
def test_several_processes_train_like_one_on_any_mesh(
    algorithm, stages, overrides, count, devices, tmp_path
):
    arguments = [
        *CONFIG,
        f"--config=configs/quickstart.py:tiny,algorithm={algorithm}",
        f"--config.stages={stages}",
        *(f"--config.{stage}.micro_batch=4" for stage in stages),
        *(f"--config.{stage}.prompts_per_step=4" for stage in stages if stage != "sft2"),
        *(f"--config.{override}" for override in overrides),
    ]
    if "sft2" in stages:
        # Room for the demonstrations.
        arguments += ["--config.decoding.max_new_tokens=72", "--config.sft2.batch_size=4"]
    succeed([*arguments, f"--workdir={tmp_path / 'several'}"], count=count, devices=devices)
    succeed([*arguments, f"--workdir={tmp_path / 'one'}"], count=1, devices=count * devices)
    assert_same_run(tmp_path / "several", tmp_path / "one", arguments)


@pytest.mark.slow
def test_two_processes_train_into_a_bucket_like_one_into_a_folder(one, gcs, bucket, tmp_path):
    succeed([*GRPO, f"--workdir={bucket}/run"], count=2)
    for name in gcs.names(bucket.removeprefix("gs://")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gcs.read(bucket.removeprefix("gs://"), name))
    assert_same_run(tmp_path / "run", one, GRPO)


@pytest.mark.slow
def test_after_sigterm_to_one_process_all_save_the_same_step(one, tmp_path):
    given = [*GRPO, f"--workdir={tmp_path}", "--config.checkpoint.every_steps=9"]
    ended = run(given, count=2, TEST_SIGTERM="1 grpo 0")
    assert [code for code, *_ in ended] == [143, 143], ended
    assert all(err.endswith("terminated; the same command goes on\n") for *_, err in ended)
    assert checkpoints(tmp_path) == ["checkpoints/grpo/1"]
    # One process, on other devices, continues the run.
    succeed(given, count=1, devices=2)
    assert_same_run(tmp_path, one, GRPO)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupted_run_ends_with_the_same_bits_on_the_same_mesh(count, one, two, tmp_path):
    """On two devices, of one process or of two; other meshes would round differently."""
    given, devices = [*GRPO, f"--workdir={tmp_path}"], 3 - count
    ended = run(given, count=count, devices=devices, TEST_SIGTERM=f"{count - 1} grpo 0")
    assert [code for code, *_ in ended] == [143] * count, ended
    succeed(given, count=count, devices=devices)
    whole = (one, two)[count - 1]
    rows, wanted = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path, whole))
    assert list(map(untimed, rows)) == list(map(untimed, wanted))
    assert_same_run(tmp_path, whole, GRPO)
    config = load_config([*GRPO, "--config.mesh.fsdp=1"])
    context = set_up(config)
    bits = [
        jax.device_get(jax.tree.leaves(restore_policy(config, context, folder)[0]))
        for folder in (tmp_path, whole)
    ]
    for got, expected in zip(*bits, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_one_process_sets_a_damaged_checkpoint_aside_for_all(one, two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "run")
    shutil.rmtree(folder / "eval" / "grpo")
    (folder / "checkpoints" / "grpo" / "2" / "metadata" / "metadata").write_text("{")
    ended = run([*GRPO, f"--workdir={folder}"], count=2)
    assert [code for code, *_ in ended] == [0, 0], ended
    told = [err.count("grpo/2 is damaged") for *_, err in ended]
    assert told == [1, 0]
    assert checkpoints(folder) == [
        *("checkpoints/grpo/1", "checkpoints/grpo/2", "checkpoints/grpo/2.damaged"),
    ]
    assert_same_run(folder, one, GRPO)


@pytest.mark.slow
def test_several_processes_shard_an_evaluation_among_them(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "run")
    expected = folder / "eval" / "grpo"
    rows = {path.name: path.read_text() for path in expected.glob("*.jsonl")}
    shutil.rmtree(expected)
    given = [*CONFIG, "--config.stages=('grpo',)", f"--workdir={folder}"]
    # A model that fits the devices of a process: each answers its own prompts.
    ended = run([*given, "--checkpoints=grpo/1,grpo/2"], count=2, job="recallm_jax.evaluate")
    assert [code for code, *_ in ended] == [0, 0], ended
    assert {path.name for path in (expected / "shards").iterdir()} == {"0_of_2", "1_of_2"}
    assert (folder / "eval" / "grpo_step1" / "summary.json").exists()
    assert any("grpo_step1" in out and "95 % interval" in out for _, out, _ in ended)
    assert {path.name: path.read_text() for path in expected.glob("*.jsonl")} == rows
    # A model that does not: both answer together.
    shutil.rmtree(expected)
    succeed([*given, "--config.mesh.fsdp=2"], count=2, job="recallm_jax.evaluate")
    assert not (expected / "shards").exists()
    assert {path.name: path.read_text() for path in expected.glob("*.jsonl")} == rows


@pytest.mark.slow
def test_the_batch_of_several_processes_with_a_loss_of_nan_is_kept_once(one, tmp_path):
    kept = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        ended = run(
            [*GRPO, f"--workdir={folder}"], count=count, devices=2 // count, TEST_NAN="grpo 1"
        )
        assert [code for code, *_ in ended] == [2] * count, ended
        path = folder / "bad_batch" / "grpo_1.json"
        assert any(
            f"loss of grpo at step 1 is nan; start again with a lower learning rate and another "
            f"--workdir; its batch is in {path}" in err
            for *_, err in ended
        )
        assert checkpoints(folder) == ["checkpoints/grpo/1"]
        kept.append((json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))))
    (seen, arrays), (expected, wanted) = kept
    assert len(seen["prompts"]) == 4 and all(len(row["responses"]) == 2 for row in seen["prompts"])
    assert seen["prompts"] == expected["prompts"]
    assert arrays.keys() == wanted.keys() > {"advantages", "sampler_log_probs", "prompt_tokens"}
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6)
    # The same step in `one`, whose loss was finite.
    reward = read_metrics(one / "metrics.jsonl")[1]["reward"]
    assert np.mean(arrays["rewards"]) == pytest.approx(reward, rel=1e-5)


@pytest.mark.slow
def test_several_processes_probe_like_one(tmp_path):
    given = [
        "--config=configs/eval_lost_in_thought.py:tiny",
        "--config.probe.num_examples=3",
        "--config.probe.batch_size=2",
        "--config.mesh.fsdp=2",
    ]
    rows = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        given_here = [*given, f"--workdir={folder}", f"--figure={folder / 'curve.png'}"]
        out = succeed(given_here, count=count, devices=2 // count, job="recallm_jax.probe")
        assert "verbatim spans" in out and (folder / "curve.png").exists()
        kept = folder / "probe" / "start"
        rows.append({path.name: path.read_text() for path in kept.glob("*.json*")})
        machine = json.loads(rows[-1].pop("machine.json"))
        assert machine["devices"] == "2 x cpu"
    assert rows[0] == rows[1] and len(rows[0]) > 2
    # Nothing is left to do, and both processes know it.
    succeed(given_here, count=2, job="recallm_jax.probe")


ENVIRONMENT = {
    "JAX_COORDINATOR_ADDRESS": "host0:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def test_processes_read_their_number_from_the_environment():
    assert peers._from_environment(ENVIRONMENT) == {
        "coordinator_address": "host0:8476",
        "num_processes": 4,
        "process_id": 3,
    }
    # On a TPU pod JAX finds these out by itself.
    assert peers._from_environment({"PATH": "/bin"}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_NUM_PROCESSES is set but JAX_PROCESS_ID is not; set all"),
        ({"JAX_COORDINATOR_ADDRESS": "host0"}, "JAX_COORDINATOR_ADDRESS = 'host0' must be HOST:P"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES = 'two' must be a whole number"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID = 4 must be below JAX_NUM_PROCESSES = 4; proc"),
    ],
)
def test_nonsense_in_the_environment_is_refused(change, message, monkeypatch, capsys):
    for name, value in (ENVIRONMENT | change).items():
        monkeypatch.setenv(name, value)

    def job(argv):
        with peers.joined(True):
            pytest.fail("joined")

    assert run_job(job, []) == 2
    assert capsys.readouterr().err.startswith(f"error: --distributed: {message}")


def test_processes_that_did_not_meet_may_try_again(monkeypatch, capsys):
    """This is not bad input: launch/job.sh restarts a job that ends with 75, but not with 2."""

    def initialize(**options):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host0:8476")
    monkeypatch.setenv("XLA_FLAGS", "--given=1")
    # It would stay set for the tests after this one.
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)

    def job(argv):
        with peers.joined(True):
            raise AssertionError("alone")

    assert run_job(job, []) == 75
    assert capsys.readouterr().err.startswith("error: --distributed: host0:8476 was not reached (")
    # Beside the given flags: gloo's collectives keep one order in all processes.
    assert os.environ["XLA_FLAGS"] == (
        "--given=1 --xla_cpu_enable_concurrency_optimized_scheduler=false"
    )


def test_rows_are_split_and_gathered_and_a_failure_ends_all(tmp_path):
    script = str(FOLDER / "rows_of_processes.py")
    ended = finish(start([script, str(tmp_path / "checkpoints")], count=2, devices=2), 200)
    assert [out for _, out, _ in ended] == ["checked\n"] * 2, ended
    assert [code for code, *_ in ended] == [2, 2]
    assert ended[1][2].splitlines()[-1] == "error: config.seed = -1 is no seed"
    last = ended[0][2].splitlines()[-1]
    assert last == "error: process 1 ended the job: config.seed = -1 is no seed"
    told = [err.count("2 is damaged (a bad sector) and is now called") for *_, err in ended]
    assert told == [1, 0]
