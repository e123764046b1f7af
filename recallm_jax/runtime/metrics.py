"""Metrics: `metrics.jsonl`, TensorBoard where clu is installed, the console; and progress bars.

A line of `metrics.jsonl` is {"stage": "grpo", "step": 3, "time": seconds, "reward": 0.5, …}; steps
count from 0 in each stage.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm import tqdm

from recallm_jax.runtime.errors import full_disk
from recallm_jax.runtime.jsonl import NUMBER, read_rows
from recallm_jax.runtime.tensorboard import SummaryWriter, summary_writer
from storage.files import Path, appending, as_path, make_folder, write_whole

Item = TypeVar("Item")
FILE, TENSORBOARD = "metrics.jsonl", "tensorboard"
# Seconds between two states of a progress bar, on a terminal and in a log.
_TERMINAL_INTERVAL, _LOG_INTERVAL = 0.2, 20.0


class MetricWriter:
    """Writes metrics to every place at once. Use as a context, or call `close`."""

    def __init__(self, workdir: str | Path):
        folder = as_path(workdir)
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
        say(f"{stage} {step}: {format_metrics(values)}")
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
    """A `MetricWriter`'s place in processes that write nothing, since another does."""

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def resume(self, stage: str, step: int) -> None:
        """Forget nothing."""

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Write nothing."""


def say_nothing(line: str) -> None:
    """Take the place of `say` in such processes."""


def no_progress(
    items: Iterable[Item], title: str, *, total: int | None = None, done: int = 0
) -> Iterable[Item]:
    """Take the place of `progress` in such processes."""
    return items


def say(line: str) -> None:
    """Print a line: on a terminal above the progress bar, in a log as it is."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stdout)
    else:
        print(line, flush=True)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, without a last one that was cut short; [] if none.

    Raises:
      UserError: another line is no row of metrics.
    """
    return list(read_rows(as_path(path), {"stage": str, "step": int, "time": NUMBER}))


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line, four digits each."""
    return "  ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def _number(value: float) -> str:
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    return f"{value:.4g}"


def progress(
    items: Iterable[Item], title: str, *, total: int | None = None, done: int = 0
) -> Iterable[Item]:
    """Yield the items under a progress bar that shows the time left.

    Args:
      total: number of items, those already done included; None where `items` knows its length.
      done: items that an earlier run did.
    """
    interval = _TERMINAL_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL
    return tqdm(
        items,
        desc=title,
        total=total,
        initial=done,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=True,
        file=sys.stderr,
    )
