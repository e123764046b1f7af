"""TensorBoard's event files, written from metrics; for gs:// through a local folder."""

import dataclasses
import itertools
import os
import pathlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import IO, Any

from storage.files import REWRITE_SECONDS, Path, is_remote, make_folder, store

FOLDER = "tensorboard"
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Point:
    """The values of some curves at a step.

    Attributes:
      time: seconds since 1970 at which they were measured.
      values: by the name of the curve, such as "grpo/reward".
    """

    step: int
    time: float
    values: Mapping[str, float]


class EventFile:
    """The one event file of a folder; it takes the place of those that earlier jobs left there.

    So a job that begins with the points of its metrics leaves a folder that says the same as they,
    whatever an earlier job wrote before it was killed. Locally a point is in the file when `add`
    returns; on gs:// the file is uploaded each `REWRITE_SECONDS`, and when it is closed.
    """

    def __init__(self, folder: Path, points: Iterable[Point] = ()):
        self._folder = folder
        self._local = None
        if is_remote(folder):
            self._local = tempfile.TemporaryDirectory()
        here = pathlib.Path(self._local.name) if self._local else pathlib.Path(folder)
        make_folder(here)
        earlier = [] if self._local else list(here.glob("events.*"))
        if self._local and folder.exists():
            earlier = list(folder.glob("events.*"))
        # A TensorBoard that is open goes on with the file whose name comes next.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = here / f"{name}.{next(_numbers)}"
        self._file: IO[bytes] = self._path.open("wb")
        self._last = time.monotonic()
        self._record(wall_time=time.time(), file_version="brain.Event:2")
        # It forgets what it has read of the earlier files.
        self._record(wall_time=time.time(), session_log={"status": "START"})
        for point in points:
            self._add(point)
        self.flush()
        for path in earlier:
            path.unlink(missing_ok=True)

    def add(self, point: Point) -> None:
        """Add a point to each curve that it names."""
        self._add(point)
        if self._local is None:
            self._file.flush()
        elif time.monotonic() - self._last >= REWRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring all points to the folder."""
        self._file.flush()
        if self._local is not None:
            store(self._folder).put_file(str(self._path), str(self._folder / self._path.name))
        self._last = time.monotonic()

    def close(self) -> None:
        """Flush, and write no more; closed again, it does nothing."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()
            if self._local is not None:
                self._local.cleanup()

    def _add(self, point: Point) -> None:
        values = [{"tag": tag, "simple_value": value} for tag, value in point.values.items()]
        self._record(wall_time=point.time, step=point.step, summary={"value": values})

    def _record(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._file).write(Event(**fields).SerializeToString())


def event_file(folder: Path, points: Iterable[Point] = ()) -> EventFile | None:
    """Return the event file of a folder; say so and return None without TensorBoard."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        print(f"note: no TensorBoard files are written ({error})", file=sys.stderr)
        return None
    return EventFile(folder, points)
