"""Writing a folder whole or not at all, here or on gs://."""

import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Callable

from safetensors import SafetensorError

from recallm_jax.runtime.errors import UserError
from storage.files import Path, as_path, is_remote, store


def check_new(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that `write_folder` would not write.

    Raises:
      UserError: the folder has contents, or is a file.
    """
    path = as_path(os.fspath(folder))
    if path.exists() and (is_remote(path) or not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already; give a new folder or remove it first")


def write_folder(
    folder: str | os.PathLike[str], write: Callable[[pathlib.Path], None], *, last: str
) -> None:
    """Write the files of a folder, whole or not at all.

    Args:
      folder: a folder that does not exist or is empty.
      write: writes the files into a local folder.
      last: the file that makes a folder on gs:// complete, because it is copied last.

    Raises:
      UserError: the folder has contents, or the disk is full or not writable.
    """
    check_new(folder)
    target = as_path(os.fspath(folder))
    if is_remote(target):
        _write_remote(target, write, last)
        return
    folder = pathlib.Path(folder).absolute()
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        write(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write {folder} ({error}); make room, or give another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_remote(folder: Path, write: Callable[[pathlib.Path], None], last: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        local = pathlib.Path(temporary) / folder.name
        write_folder(local, write, last=last)
        for file in sorted(local.iterdir(), key=lambda file: file.name == last):
            store(folder).put_file(str(file), str(folder / file.name))
