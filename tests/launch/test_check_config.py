"""A config that its VM would refuse is refused here, before anything is created."""

import subprocess
import sys

import pytest

from tests.launch.stand_ins import ROOT, TRAIN, TYPE, executable, supervise

CONFIG = "--config=configs/smollm2_135m.py"
MESH = ("--config.mesh.fsdp=8", "--config.evaluation.batch_size=24")


def check(*arguments):
    return subprocess.run(
        [sys.executable, "launch/check_config.py", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("8", "train", "python", "-m", "recallm_jax.train", CONFIG, "--workdir=gs://b/a", *MESH),
        ("0", "train", "env", "A=1", "recallm-train", "--config", CONFIG.partition("=")[2]),
        ("8", "probe", "python", "-m", "recallm_jax.probe", CONFIG, "--checkpoint"),
        ("4", "evaluate", "python", "-mrecallm_jax.evaluate", CONFIG, "--label", "start"),
        ("1", "prepare", "python", "-m", "recallm_jax.prepare", CONFIG, *MESH, "--out=config.x"),
        ("1", "evaluate", "recallm-evaluate", CONFIG, *MESH, "--rescore", "--label=a"),
        ("8", "train", "recallm-train", CONFIG, "--config.optimizer.learning_rate", "1e-5"),
    ],
)
def test_a_config_that_works_passes_without_a_word(arguments):
    done = check(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        (
            "train",
            ("--config=configs/smollm2_135.py",),
            "--config=configs/smollm2_135.py: there is no such file",
        ),
        ("train", (CONFIG, "--config.mesh.fspd", "8"), "did you mean config.mesh.fsdp?"),
        ("train", (CONFIG, "--config.mesh.fsdp=5"), "split over mesh.data * mesh.fsdp = 5 devices"),
        (
            "evaluate",
            (CONFIG, "--config.mesh.fsdp=8", "--config.evaluation.batch_size=25"),
            "config.evaluation.batch_size = 25 cannot be split",
        ),
        (
            "generate",
            (CONFIG, "--config.mesh.fsdp=4", "--config.mesh.tensor=4"),
            "config.mesh has fsdp = 4 x tensor = 4: 16 chips, and this accelerator type has 8",
        ),
        ("prepare", ("--out=x",), "--config is missing"),
    ],
)
def test_a_mistake_is_one_line_with_code_2(job, arguments, message):
    done = check("8", job, "python", "-m", f"recallm_jax.{job}", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.fixture
def checked(cloud):
    """A clone whose own Python refuses every config, and keeps what it was asked."""
    executable(
        cloud.clone / ".venv/bin/python",
        '#!/bin/sh\nprintf "%s\\n" "$@" >>../asked\necho "error: config.x is wrong" >&2\nexit 2\n',
    )
    return cloud


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_nothing_is_created_for_a_config_that_is_refused(checked, dry):
    done = supervise(checked, *dry)
    assert done.returncode == 2
    assert done.stderr == "error: config.x is wrong\n" and done.stdout == ""
    assert not (checked.folder / "calls").exists()
    # v6e-16 has 16 chips.
    asked = (checked.folder / "asked").read_text().split("\n")
    assert asked[:6] == ["launch/check_config.py", "16", "train", *TRAIN[:3]]


@pytest.mark.parametrize(("kind", "chips"), [("v5p-8", "4"), ("v5litepod-8", "8"), ("v4-16", "8")])
def test_run_checks_it_too_with_the_chips_of_the_type(checked, kind, chips):
    flags = (f"--accelerator-type={kind}", "--dry-run")
    done = checked.tpu_vm("run", *flags, "--", *TRAIN, "--workdir=gs://b/a")
    assert done.returncode == 2 and "config.x is wrong" in done.stderr
    assert (checked.folder / "asked").read_text().split("\n")[1] == chips


def test_a_python_that_does_not_work_is_no_reason_to_refuse(checked):
    executable(checked.clone / ".venv/bin/python", "#!/bin/sh\nexit 1\n")
    checked.commit()
    done = supervise(checked, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the config is not checked here: ") == 1


def test_the_last_commit_is_checked_if_that_is_sent(checked):
    executable(checked.clone / ".venv/bin/python", "#!/bin/sh\ncat launch/mark\nexit 2\n")
    (checked.clone / "launch/mark").write_text("committed")
    checked.commit()
    (checked.clone / "launch/mark").write_text("edited")
    assert supervise(checked, "--dry-run").stdout == "edited"
    assert supervise(checked, "--dry-run", "--committed").stdout == "committed"


def test_jobs_without_a_config_are_not_asked(checked):
    report = ("python", "-m", "recallm_jax.report", "--workdir=gs://b/a")
    done = checked.tpu_vm("run", TYPE, "--dry-run", "--worker=0", "--", *report)
    assert done.returncode == 0, done.stderr
    assert not (checked.folder / "asked").exists()
