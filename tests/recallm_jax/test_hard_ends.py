"""Signals at bad moments, disks that fill up, another machine: one line, and nothing is lost."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.killed_runs import STEPS, Run, assert_same, results
from tests.oracles.tiny_run import metrics_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TERMINATED, INTERRUPTED = 143, 130


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("hard_ends")


@pytest.fixture(scope="module")
def whole(scratch):
    """The results of a run that nothing disturbed."""
    run = Run(scratch / "whole", scratch / "cache", scratch)
    run.finish()
    return results(run.workdir)


def assert_one_line(out: str, line: str) -> None:
    assert "Traceback" not in out and out.rstrip().endswith(line), out[-2000:]
    assert out.count(line) == 1


def wait_until(run: Run, doing: str, most: float = 600) -> None:
    until = time.monotonic() + most
    while run.doing() != doing:
        assert time.monotonic() < until, f"the run does {run.doing()!r}, not {doing!r}"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_programs_are_compiled(number, whole, scratch):
    run = Run(scratch / f"compile_{number}", scratch / f"cold_{number}", scratch)
    process = run.start()
    # The first call of an update compiles it for seconds.
    wait_until(run, "update")
    time.sleep(0.5)
    process.send_signal(number)
    out, _ = process.communicate(timeout=600)
    word = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
    assert process.returncode == {"terminated": TERMINATED, "interrupted": INTERRUPTED}[word]
    assert_one_line(out, f"{word}; the same command goes on")
    run.finish()
    assert_same(results(run.workdir), whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("point", ["save", "between", "update", "rollout"])
def test_a_signal_in_a_step_and_while_it_is_saved(point, name, whole, scratch):
    run = Run(scratch / f"{point}_{name}", scratch / "cache", scratch)
    code, out = run.ended(f"{point}:{name}", 5)
    word = "terminated" if name == "SIGTERM" else "interrupted"
    assert code == (TERMINATED if name == "SIGTERM" else INTERRUPTED), out[-2000:]
    assert_one_line(out, f"{word}; the same command goes on")
    run.finish()
    assert_same(results(run.workdir), whole)


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
def test_ctrl_c_twice_is_still_one_line(pause, whole, scratch):
    run = Run(scratch / f"twice_{pause}", scratch / "cache", scratch)
    process = run.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("sft2 1: "):
            break
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == INTERRUPTED
    assert_one_line(out, "interrupted; the same command goes on")
    run.finish()
    assert_same(results(run.workdir), whole)


def test_a_run_goes_on_with_another_number_of_devices(whole, scratch):
    folder = scratch / "devices"
    code, _ = Run(folder, scratch / "cache", scratch).ended("between", 9)
    assert code == -signal.SIGKILL
    split = ("--config.mesh.fsdp=2",)
    Run(folder, scratch / "cache_2", scratch, devices=2).finish("none", 1, *split)
    found = metrics_of(folder)
    assert [(row["stage"], row["step"]) for row in found] == [
        (stage, step) for stage, steps in STEPS.items() for step in range(steps)
    ]
    # The cold start was made on one device: it is the same to the bit.
    assert found[:7] == whole["metrics"][:7]
    # Sums over two devices round otherwise, and what is sampled then may differ.
    changes = [
        np.abs(got - wanted).max() / np.abs(wanted).max()
        for got, wanted in zip(results(folder)["arrays"], whole["arrays"], strict=True)
        if wanted.size > 64
    ]
    assert max(changes) < 0.1


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int):
    """Mount a small file system in memory; yield a function that changes its options."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", folder],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here ({error})")
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", folder], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def test_a_disk_that_fills_up_and_has_room_again(whole, scratch):
    with mounted(scratch / "small", megabytes=2) as remount:
        run = Run(scratch / "small" / "run", scratch / "cache", scratch)
        code, out = run.ended()
        assert code == 2, out[-2000:]
        last = out.rstrip().splitlines()[-1]
        assert last.startswith("error: the disk is full"), out[-2000:]
        assert last.endswith("free some space, then start the same command again")
        assert "Traceback" not in out
        remount("size=500M")
        run.finish()
        assert_same(results(run.workdir), whole)


def test_a_file_system_that_can_only_be_read(whole, scratch):
    with mounted(scratch / "fixed", megabytes=500) as remount:
        run = Run(scratch / "fixed" / "run", scratch / "cache", scratch)
        assert run.ended("between", 5)[0] == -signal.SIGKILL
        remount("ro")
        code, out = run.ended()
        assert code == 2 and "Traceback" not in out, out[-2000:]
        last = out.rstrip().splitlines()[-1]
        assert last.startswith(f"error: {run.workdir}")
        assert last.endswith("can't be used (read-only file system); give another path, or mend it")
        remount("rw")
        run.finish()
        assert_same(results(run.workdir), whole)
