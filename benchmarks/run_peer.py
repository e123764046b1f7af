"""Running another library's side of a benchmark, under another Python."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_peer(python: Path, script: str, **options: Any) -> dict:
    """Run a script of this folder, and return the JSON of its last line.

    Args:
      options: the script's flags; values that are neither text nor number are given as JSON.

    Raises:
      SystemExit: the script failed; the message is its last line.
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
