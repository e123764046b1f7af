"""The rows of JSON that a run writes, read back and checked."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from recallm_jax.runtime.errors import UserError
from storage.files import Path

NUMBER = (int, float)
# The type of each field of a row.
Fields = Mapping[str, type | tuple[type, ...]]


def read_rows(path: Path, fields: Fields) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file, without a last line that was cut short; none if no file.

    Args:
      fields: the fields that a row must have; others are ignored.

    Raises:
      UserError: another line is not such a row; names the line.
    """
    if not path.exists():
        return
    # After the last newline there is nothing, or part of a row that an interruption cut. Read as
    # bytes, so that a line that is not UTF-8 is an error of that line.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            check_fields(row, fields)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is damaged ({error}); delete that line, or the file"
            ) from None
        yield row


def check_fields(row: Any, fields: Fields) -> None:
    """Refuse anything but an object with these fields.

    Raises:
      ValueError: names the field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{str(row)[:40]!r} is not a row")
    for name, kind in fields.items():
        if name not in row:
            raise ValueError(f"it has no {name!r}")
        if not isinstance(row[name], kind):
            raise ValueError(f"{name!r} can't be {str(row[name])[:40]!r}")
