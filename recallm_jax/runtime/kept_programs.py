"""Compiled programs kept on disk, so that the next start of a job need not compile them again.

This is JAX's persistent compilation cache with defaults for the jobs. The name of an entry is a
hash of the program, the compiler and its flags, the folder's path, the devices and their features,
so machines of different kinds may share a folder. JAX (0.10.2) reads and writes it in this way:

- An entry that can't be read costs a warning and a compilation.
- Several processes may use a folder at once. An entry is written by one call of the system: a
  process that reads it before finds no whole entry, and if two write it, one of the two is whole.
- Of the processes of one job only the first writes, and all read. On CPUs the others find nothing,
  because their names for a program differ.
"""

import os
import pathlib
import sys
import time
import uuid

import jax

from storage import faults
from storage.files import GS, Path, as_path, cache_folder, is_remote, make_folder, write_whole

FOLDER, MIN_SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# The value of `config.compilation_cache` that stands for a folder of the user.
USER = "user"
NAME = "programs"
# Entries that were not used for so long are deleted, and the oldest ones beyond this size.
_DAYS, _BYTES = 30, 10 * 1024**3


def keep_programs(setting: str, *, workdir: Path | None = None) -> None:
    """Let JAX keep compiled programs; call it before the first one is compiled.

    The environment variable `JAX_COMPILATION_CACHE_DIR` overrides the setting. If the folder can't
    be written, that is said in one line, and programs are not kept.

    Args:
      setting: "user" for a folder of the user, a path, local or on gs://, or "" for none.
      workdir: the workdir of a job that runs as several processes. It takes the place of the user's
        folder, because all of them see it.
    """
    given = os.environ.get(FOLDER)
    folder = _folder(setting, workdir) if given is None else given
    _set_folder(folder)
    # JAX knows other stores than the jobs do.
    if not folder or ("://" in folder and not folder.startswith(GS)):
        return
    path = as_path(folder)
    if problem := _problem(path):
        print(
            f"compiled programs are not kept: {folder} can't be written ({problem}); name another "
            f"folder in config.compilation_cache or {FOLDER}",
            file=sys.stderr,
        )
        _set_folder("")
        return
    # By default JAX keeps programs that took a second. A run has a hundred others, which together
    # take as long; on gs:// each would be two requests.
    if MIN_SECONDS not in os.environ and not is_remote(path):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if given is None and not is_remote(path):
        delete_old(pathlib.Path(path))


def _folder(setting: str, workdir: Path | None) -> str:
    if setting != USER:
        return setting
    return str((cache_folder() if workdir is None else workdir) / NAME)


def _set_folder(folder: str) -> None:
    jax.config.update("jax_compilation_cache_dir", folder or None)


def _problem(folder: Path) -> str | None:
    """Return the reason why a folder can't be written, or None."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        make_folder(folder)
        write_whole(probe, "")
        probe.unlink()
    except Exception as error:
        if is_remote(folder) and (said := faults.describe(error, [str(folder)])):
            return said
        if not isinstance(error, OSError):
            raise
        return os.strerror(error.errno).lower() if error.errno else str(error)
    return None


def delete_old(folder: pathlib.Path, *, days: float = _DAYS, size: int = _BYTES) -> None:
    """Delete entries that were not used for some days, and the oldest ones beyond a size.

    Other processes may use the folder, or delete from it too. The time of last use is that of
    reading where the file system keeps it, else that of writing.
    """
    found = []
    for path in folder.glob("*-cache"):
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    oldest, total = time.time() - days * 24 * 3600, 0
    for used, entry_size, path in sorted(found, reverse=True):
        total += entry_size
        if used < oldest or total > size:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue
