"""The command line, the times and the results of a benchmark."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from recallm_jax.runtime.machine import describe_machine


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of a benchmark's arguments, of which `--out` is one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def median_seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    """Return the median time of a call; the first one compiles, if none came before."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def write_report(path: Path | None, rows: list[dict], **settings: Any) -> None:
    """Write rows with the machine, versions and the date; do nothing if the path is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe_machine(), **settings, "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
