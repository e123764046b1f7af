"""Writing the results of a benchmark."""

import json
from pathlib import Path
from typing import Any

from recallm_jax.runtime.machine import describe_machine


def write_report(path: Path | None, rows: list[dict], **settings: Any) -> None:
    """Write rows with the machine, versions and the date; do nothing if the path is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe_machine(), **settings, "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
