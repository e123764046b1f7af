"""How a job ends: the line that a user sees, and the exit code."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from recallm_jax.runtime.errors import TryAgain, run_job


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.EIO, 75, "/d/f can't be read or written now (input/output error)"),
        (errno.ESTALE, 75, "start the same command again"),
        (errno.ENOSPC, 2, "the disk is full while writing /d/f"),
        (errno.EDQUOT, 2, "the disk quota is used up"),
        (errno.EROFS, 2, "/d/f can't be used (read-only file system)"),
    ],
)
def test_a_fault_of_the_file_system_is_one_line(number, code, said, capsys):
    def job(argv):
        raise OSError(number, os.strerror(number), "/d/f")

    assert run_job(job, []) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_an_error_that_may_pass_is_one_line_and_75(capsys):
    def job(argv):
        raise TryAgain("/d/f can't be read now")

    assert run_job(job, []) == 75
    assert capsys.readouterr().err == "error: /d/f can't be read now\n"


CLOSES_SLOWLY = """
import sys, time
from recallm_jax.runtime.errors import run_job

def job(arguments):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("closing", flush=True)
        time.sleep(2)
        print("closed", flush=True)

sys.exit(run_job(job))
"""


@pytest.mark.parametrize("third", [False, True])
def test_a_second_ctrl_c_lets_a_job_close_its_files_and_a_third_ends_it(third):
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSES_SLOWLY],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in ("begun", "closing"):
        assert process.stdout.readline().strip() == line
        process.send_signal(signal.SIGINT)
    if third:
        # Signals that come together count once.
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == [] if third else ["closed", "interrupted; the same command goes on"]
    assert process.returncode == 130
