"""Several processes on this machine, with devices that are simulated: what a pod is to a test."""

import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).parent


def start(
    arguments: Sequence[str], *, count: int, devices: int = 1, **variables: str
) -> list[subprocess.Popen]:
    """Start Python with these arguments in `count` processes that can find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = (
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    )
    shared = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "NPROC": "16",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(FOLDER.parents[1]),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        **variables,
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(started: Sequence[subprocess.Popen], seconds: float) -> list[tuple[int, str, str]]:
    """Return exit code, stdout and stderr of each; none of them outlives this."""
    try:
        ended = [process.communicate(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (process.returncode, _without_gloo(out), err)
        for process, (out, err) in zip(started, ended, strict=True)
    ]


def _without_gloo(out: str) -> str:
    """Drop the lines that the library below JAX prints about every connection."""
    gloo = re.compile(r"Gloo|peer ranks|^[\s\d]*$")
    return "".join(line for line in out.splitlines(True) if not gloo.search(line))
