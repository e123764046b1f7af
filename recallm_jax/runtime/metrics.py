"""Metrics: in `metrics.jsonl`, in TensorBoard if it is installed, and on the console.

A line of `metrics.jsonl` is {"stage": "grpo", "step": 3, "time": seconds, "reward": 0.5, …}; steps
count from 0 in each stage.
"""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from recallm_jax.runtime.console import Console
from recallm_jax.runtime.jsonl import NUMBER, read_rows
from recallm_jax.runtime.tensorboard import FOLDER, EventFile, Point, event_file
from storage.files import Path, appending, as_path, make_folder, write_whole

FILE = "metrics.jsonl"


@runtime_checkable
class Tracker(Protocol):
    """Another place that gets the points of a run."""

    def add(self, point: Point) -> None:
        """Add a point to each curve that it names."""

    def close(self) -> None:
        """Bring what is buffered to its place, and take no more."""


class MetricWriter:
    """Writes metrics to every place at once; use it in `with`, or call `close`.

    Only the process that leads has a writer. The event file of TensorBoard begins with what
    `metrics.jsonl` holds, so that both say the same after a kill too.

    Args:
      tracker: a further place; it is closed with the writer.
    """

    def __init__(self, workdir: str | Path, tracker: Tracker | None = None):
        folder = as_path(workdir)
        self._console = Console()
        make_folder(folder)
        self._path = folder / FILE
        self._tracker = tracker
        self._events = self._event_file(read_metrics(self._path))

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def resume(self, stage: str, step: int) -> None:
        """Forget a stage's rows from `step` on: they are about to be written again."""
        rows = read_metrics(self._path)
        kept = [row for row in rows if row["stage"] != stage or row["step"] < step]
        write_whole(self._path, "".join(map(_line, kept)))
        if len(kept) < len(rows) and self._events is not None:
            self._events.close()
            self._events = self._event_file(kept)

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of one step: anything that `float` takes."""
        values = {name: float(value) for name, value in metrics.items()}
        row = {"stage": stage, "step": step, "time": round(time.time(), 3), **values}
        with appending(self._path) as add:
            add(_line(row))
        self._console.say(f"{stage} {step}: {format_metrics(values)}")
        for place in filter(None, (self._events, self._tracker)):
            place.add(_point(row))

    def track(self, point: Point) -> None:
        """Give the tracker a point that is no step's: an evaluation's."""
        if self._tracker is not None:
            self._tracker.add(point)

    def close(self) -> None:
        """Flush what is still buffered."""
        with contextlib.ExitStack() as stack:
            # The last one is closed first: a tracker may wait for its server.
            for place in filter(None, (self._tracker, self._events)):
                stack.callback(place.close)

    def _event_file(self, rows: Sequence[Mapping[str, Any]]) -> EventFile | None:
        return event_file(self._path.parent / FOLDER, map(_point, rows))


def _point(row: Mapping[str, Any]) -> Point:
    stage = row["stage"]
    values = {f"{stage}/{k}": v for k, v in row.items() if k not in ("stage", "step", "time")}
    return Point(row["step"], float(row["time"]), values)


class SilentWriter:
    """Takes the place of `MetricWriter` in processes that do not lead."""

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def resume(self, stage: str, step: int) -> None:
        """Forget nothing."""

    def track(self, point: Point) -> None:
        """Track nothing."""

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Write nothing."""


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, without a last one that was cut short; [] if none.

    Raises:
      UserError: another line is not a row of metrics.
    """
    return list(read_rows(as_path(path), {"stage": str, "step": int, "time": NUMBER}))


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line, four digits each."""
    return "  ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def _number(value: float) -> str:
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    return f"{value:.4g}"
