"""Metrics: in `metrics.jsonl`, in TensorBoard if clu is installed, and on the console.

A line of `metrics.jsonl` is {"stage": "grpo", "step": 3, "time": seconds, "reward": 0.5, …}; steps
count from 0 in each stage.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from recallm_jax.runtime.console import Console
from recallm_jax.runtime.errors import full_disk
from recallm_jax.runtime.jsonl import NUMBER, read_rows
from recallm_jax.runtime.tensorboard import SummaryWriter, summary_writer
from storage.files import Path, appending, as_path, make_folder, write_whole

FILE, TENSORBOARD = "metrics.jsonl", "tensorboard"


class MetricWriter:
    """Writes metrics to every place at once; use it in `with`, or call `close`.

    Only the process that leads has a writer.
    """

    def __init__(self, workdir: str | Path):
        folder = as_path(workdir)
        self._console = Console()
        make_folder(folder)
        self._path = folder / FILE
        self._summary_writer: SummaryWriter | None = None
        with self._full_disk():
            self._summary_writer = summary_writer(folder / TENSORBOARD)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def resume(self, stage: str, step: int) -> None:
        """Forget a stage's rows from `step` on: they are about to be written again."""
        rows = [r for r in read_metrics(self._path) if r["stage"] != stage or r["step"] < step]
        write_whole(self._path, "".join(map(_line, rows)))

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of one step: anything that `float` takes."""
        values = {name: float(value) for name, value in metrics.items()}
        row = {"stage": stage, "step": step, "time": round(time.time(), 3), **values}
        with appending(self._path) as add:
            add(_line(row))
        self._console.say(f"{stage} {step}: {format_metrics(values)}")
        if self._summary_writer is not None:
            with self._full_disk():
                self._summary_writer.write_scalars(
                    step, {f"{stage}/{name}": value for name, value in values.items()}
                )

    def close(self) -> None:
        """Flush what is still buffered."""
        if self._summary_writer is not None:
            with self._full_disk():
                self._summary_writer.close()

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        """Raise TensorFlow's own error for a full disk as an `OSError`, and write no more."""
        try:
            yield
        except Exception as error:
            met = full_disk(error, self._path.parent / TENSORBOARD)
            if met is None:
                raise
            self._summary_writer = None
            raise met from None


class SilentWriter:
    """Takes the place of `MetricWriter` in processes that do not lead."""

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def resume(self, stage: str, step: int) -> None:
        """Forget nothing."""

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
