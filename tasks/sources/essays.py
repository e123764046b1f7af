"""Essays to hide needles in: plain text, or JSON as RULER's script writes it."""

import functools
import json
import unicodedata
import zlib

from storage.files import reading
from tasks.errors import TaskInputError
from tasks.sources.table import find

FILES = ("PaulGrahamEssays.json", "haystack_essays*.txt")


@functools.lru_cache(maxsize=8)
def read_essays(data_dir: str) -> str:
    """Read the essays of a data folder as one text in Unicode's form NFC, white space collapsed.

    The text is "" if there is no folder, or none of FILES in it. It is read once a process.

    Raises:
      TaskInputError: a file can't be read, is not UTF-8, or is empty.
    """
    paths = find(data_dir, FILES) if data_dir else []
    text = " ".join(" ".join(map(_read, paths)).split())
    if paths and not text:
        raise TaskInputError(f"{paths[0]} is empty; put a text of some pages there")
    return unicodedata.normalize("NFC", text)


def _read(path: str) -> str:
    try:
        with reading(path) as file:
            text = file.read().decode()
        if ".json" in path:
            text = json.loads(text)["text"]
    # EOFError and zlib.error come from damaged archives.
    except (OSError, ValueError, EOFError, zlib.error, KeyError, TypeError) as error:
        raise TaskInputError(
            f"{path} can't be read as essays ({error}); give plain text in UTF-8, or remove it"
        ) from None
    if not isinstance(text, str):
        raise TaskInputError(f'{path}: "text" must be one text; download it again')
    return text
