"""TensorBoard's event files, by clu's writer; for gs:// through a local folder."""

import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from recallm_jax.runtime.quiet import hidden_stderr
from storage.files import REWRITE_SECONDS, Path, is_remote, store


@runtime_checkable
class SummaryWriter(Protocol):
    """The methods of clu's writer that are used."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""

    def close(self) -> None:
        """Flush, and write no more."""


def summary_writer(folder: Path) -> SummaryWriter | None:
    """Return a writer to the folder; say so and return None if clu or TensorFlow is missing."""
    try:
        with hidden_stderr():
            import tensorflow as tf
            from clu import metric_writers

            tf.config.set_visible_devices([], "GPU")
    except ImportError as error:
        print(f"note: no TensorBoard files are written ({error})", file=sys.stderr)
        return None
    if is_remote(folder):
        return _Uploading(folder, metric_writers.SummaryWriter)
    return metric_writers.SummaryWriter(str(folder))


class _Uploading:
    """Writes locally, and copies the files to gs:// each `REWRITE_SECONDS` and when closed."""

    def __init__(self, folder: Path, make: Any):
        self._folder = folder
        self._local = tempfile.TemporaryDirectory()
        self._writer = make(self._local.name)
        self._last = time.monotonic()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, scalars)
        if time.monotonic() - self._last >= REWRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        for file in pathlib.Path(self._local.name).iterdir():
            store(self._folder).put_file(str(file), str(self._folder / file.name))
        self._last = time.monotonic()

    def close(self) -> None:
        self._writer.close()
        self.flush()
        self._local.cleanup()
