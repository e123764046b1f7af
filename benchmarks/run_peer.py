"""Running another library's side of a benchmark, under a Python of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_peer(python: Path, script: str, **options: Any) -> dict:
    """Return what a script of this folder measured: the JSON in its last line.

    Args:
      options: its flags; what is neither text nor number is given as JSON.

    Raises:
      SystemExit: it failed; with the last thing that it said.
    """
    command = [str(python), str(Path(__file__).with_name(script))]
    for name, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        command += [f"--{name}", text]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        sys.exit(f"error: {python} {script}: {said[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
