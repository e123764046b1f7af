"""Read files, write them whole or not at all, and append to them; local or on `gs://`.

A local path is a `pathlib.Path` and one on gs:// an `etils.epath.Path`, as in Orbax; both have the
methods that are used here. Access to gs:// goes through gcsfs, which tries six times before it
gives up. Objects there need no folders, change only as a whole, and can't be renamed.
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
# Seconds between two writes of a growing file on gs://.
REWRITE_SECONDS = 30.0

# Otherwise etils uses TensorFlow for gs:// if that is installed.
os.environ.setdefault("EPATH_USE_TF", "false")
# Otherwise gcsfs asks over gRPC, for each file, what kind of bucket it is in.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# Other programs, and TensorStore in this one, write to the same folders: no cached listings.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
# Both also log the errors that they raise, with tracebacks.
for _name in ("gcsfs", "fsspec"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def as_path(path: str | Path) -> Path:
    """Return a path to a local file or folder, or to one on gs://.

    Raises:
      InputError: see `meant_path`.
    """
    if not isinstance(path, str):
        return path
    path = meant_path(path)
    return epath.Path(path) if path.startswith(GS) else pathlib.Path(path)


def meant_path(path: str) -> str:
    """Return the path that a user means who types `path`: `~` and `~user` are homes.

    Raises:
      InputError: it is empty or "None", the home of nobody, a URL of another kind than gs://, or a
        damaged one of that kind.
    """
    if not path.strip() or path == "None":
        shown = "empty" if path != "None" else "None"
        raise InputError(f"the path is {shown}; give a file or folder, local or on {GS}")
    if path.startswith("gs:"):
        bucket = path.removeprefix("gs:").lstrip("/")
        if not bucket or not path.startswith(GS) or path.startswith(f"{GS}/"):
            raise InputError(f"{path} names no bucket; write {GS}{bucket or 'BUCKET'}")
        return path
    if "://" in path:
        raise InputError(f"{path} can't be used; give a local path, or one on {GS}")
    home = os.path.expanduser(path)
    if path.startswith("~") and home == path:
        raise InputError(
            f"{path} can't be used: there is no user {path[1:].partition('/')[0]!r}; give ./{path} "
            "for a folder of this name"
        )
    return home


def is_remote(path: str | Path) -> bool:
    """Return whether a path is on gs://."""
    return str(path).startswith(GS)


def store(path: Path) -> fsspec.AbstractFileSystem:
    """Return the file system of a path on gs://."""
    return fsspec.filesystem("gcs")


def open_folder(path: str) -> Path:
    """Return the path of a folder that a job writes to; on gs:// its bucket must exist.

    The bucket is looked up here because Orbax would fail without it.

    Raises:
      InputError: see `as_path`.
      Exception: gcsfs raises one of its own, such as FileNotFoundError for a missing bucket.
    """
    folder = as_path(path)
    if is_remote(folder):
        bucket = path.removeprefix(GS).partition("/")[0]
        store(folder).call("GET", "b/{}", bucket)
    return folder


def cache_folder() -> pathlib.Path:
    """Return the user's folder of files that can be made again.

    It is `recallm-jax` in XDG_CACHE_HOME, or else in ~/.cache.
    """
    parent = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(parent) / "recallm-jax"


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they are missing; do nothing on gs://."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def written_whole(path: Path, *, by: str = "") -> Iterator[pathlib.Path]:
    """Yield a local file to write; after the block the whole file is at `path`.

    If the block or the program is interrupted, `path` stays as it was.

    Args:
      by: names the writer, if several may write the same file at once.
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
    """Write a text file; if it is interrupted, the file stays as it was."""
    with written_whole(path, by=by) as file:
        file.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that appends text to a file; the file is made if it is missing.

    On gs:// the whole file is written again every `REWRITE_SECONDS` and after the block. If the
    program is killed, the text that was added since the last write is lost.
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
    """Open a data file on any file system that fsspec knows; compressed files are unpacked.

    Raises:
      InputError: gs:// is at fault.
    """
    with told(path), fsspec.open(path, "rb", compression="infer") as file:
        yield file


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Raise a fault of gs:// as an InputError, so that it is not mistaken for damaged data."""
    try:
        yield
    except Exception as error:
        line = faults.describe(error, [path])
        if line is None:
            raise
        raise InputError(line) from None


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with its line ends as they are.

    Raises:
      UnicodeDecodeError: the file is not UTF-8.
    """
    return path.read_bytes().decode()
