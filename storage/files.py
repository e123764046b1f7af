"""Files by path, local or on `gs://`: read, written whole or not at all, and added to.

A local path is a `pathlib.Path`, one on gs:// an `etils.epath.Path`, as Orbax has them; both have
the methods that are used. gs:// goes through gcsfs, which tries six times before it gives up.
Objects there have no folders to make, change only as a whole, and can't be renamed.
"""

import contextlib
import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, TypeAlias

import fsspec
from etils import epath

from storage import faults
from storage.errors import InputError

GS = "gs://"
Path: TypeAlias = pathlib.Path | epath.Path
# Seconds between two states of a file on gs:// that grows.
REWRITE_SECONDS = 30.0

# etils would take TensorFlow for gs:// where that is installed.
os.environ.setdefault("EPATH_USE_TF", "false")
# Without it gcsfs asks over gRPC, at each file, what kind of bucket this is.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# Other programs, and TensorStore in this one, write to the same folders.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
# What they raise, they log with its traceback as well.
for _name in ("gcsfs", "fsspec"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def as_path(path: str | Path) -> Path:
    """Return a path to a local file or folder, or to one on gs://.

    Raises:
      InputError: it is a URL of another kind.
    """
    if not isinstance(path, str):
        return path
    if path.startswith(GS):
        return epath.Path(path)
    if "://" in path:
        raise InputError(f"{path} can't be used; give a local path, or one on gs://")
    return pathlib.Path(path)


def is_remote(path: str | Path) -> bool:
    """Return whether a path is on gs://."""
    return str(path).startswith(GS)


def store(path: Path) -> fsspec.AbstractFileSystem:
    """Return the file system of a path on gs://."""
    return fsspec.filesystem("gcs")


def open_folder(path: str) -> Path:
    """Return the path of a folder that a job writes to; on gs:// its bucket must be there.

    Orbax asks for the bucket, too.

    Raises:
      InputError: see `as_path`.
      Exception: gcsfs's, such as FileNotFoundError where there is no such bucket.
    """
    folder = as_path(path)
    if is_remote(folder):
        bucket = path.removeprefix(GS).partition("/")[0]
        store(folder).call("GET", "b/{}", bucket)
    return folder


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there; gs:// has none to make."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def written_whole(path: Path, *, by: str = "") -> Iterator[pathlib.Path]:
    """Yield a local file to write; behind the block it is at `path`, whole.

    Whatever interrupts the block, or the program, leaves at `path` what was there before.

    Args:
      by: who writes, where several may write the same at once.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = pathlib.Path(folder) / path.name
            yield local
            store(path).put_file(str(local), str(path))
    else:
        partial = pathlib.Path(path).with_name(f"{path.name}{by}.partial")
        yield partial
        partial.replace(path)


def write_whole(path: Path, text: str, *, by: str = "") -> None:
    """Write a text file that, whatever interrupts it, is whole or as it was."""
    with written_whole(path, by=by) as file:
        file.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that adds text to the end of a file, which is made if it is not there.

    On gs:// the file is written anew: behind the block, and in it each `REWRITE_SECONDS`. What a
    program that is killed added since then is lost.
    """
    if not is_remote(path):
        with open(path, "a", encoding="utf-8") as file:

            def add(text: str) -> None:
                file.write(text)
                file.flush()

            yield add
        return
    parts = [path.read_bytes().decode()] if path.exists() else [""]
    written, last = 1 if parts[0] else 0, time.monotonic()

    def add_remote(text: str) -> None:
        nonlocal written, last
        parts.append(text)
        if time.monotonic() - last >= REWRITE_SECONDS:
            write_whole(path, "".join(parts))
            written, last = len(parts), time.monotonic()

    try:
        yield add_remote
    finally:
        if written < len(parts):
            write_whole(path, "".join(parts))


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """Open a file of data, on any file system of fsspec's; what is compressed is unpacked.

    Raises:
      InputError: a fault of gs://.
    """
    with told(path), fsspec.open(path, "rb", compression="infer") as file:
        yield file


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Raise a fault of gs:// as a InputError: others may know data by its errors alone."""
    try:
        yield
    except Exception as error:
        line = faults.describe(error, [path])
        if line is None:
            raise
        raise InputError(line) from None


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
      UnicodeDecodeError: it is none.
    """
    return path.read_bytes().decode() if is_remote(path) else path.read_text(encoding="utf-8")
