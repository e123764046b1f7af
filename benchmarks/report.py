"""Writing what a benchmark has measured."""

import json
from pathlib import Path
from typing import Any

from recallm_jax.runtime.machine import describe_machine


def write_report(path: Path | None, rows: list[dict], **settings: Any) -> None:
    """Write a benchmark's rows with the machine, its versions and the date; None writes nothing."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe_machine(), **settings, "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
