"""The machine and the commit of a run, for the readers of its numbers."""

import datetime
import json
import os
import pathlib
import platform
import subprocess

import jax

from storage.files import Path, as_path, write_whole

FILE = "machine.json"
ROOT = pathlib.Path(__file__).parents[2]


def write_machine(workdir: str | Path) -> None:
    """Write `machine.json`: processor, devices, versions, commit, and the date of the run's start.

    An existing file stays as it is, so that a restart does not change the date.
    """
    path = as_path(workdir) / FILE
    if path.exists():
        return
    write_whole(path, json.dumps(describe_machine(), indent=1) + "\n")


def describe_machine() -> dict[str, str]:
    """Return processor, devices, versions, the commit and today's date."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit_of(ROOT),
    }


def commit_of(root: pathlib.Path) -> str:
    """Return the commit of a clone, with "-dirty" if its files differ, or "unknown".

    In an archive, such as `launch/` sends, git has written it into the file COMMIT.
    """
    archived = root / "COMMIT"
    if archived.exists() and not (text := archived.read_text().strip()).startswith("$"):
        return text
    # A repository in a folder above is not that of this code.
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(
            command, cwd=root, env=alone, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    """Return the processor's name if the system tells it (Linux), else its architecture."""
    about = pathlib.Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
