"""The files of an evaluation: a row of JSONL for each response, and the summary."""

import collections
import json
from collections.abc import Iterable, Sequence
from typing import Any

from recallm_jax.config.kept import MAY_CHANGE, TRAINING
from recallm_jax.evaluation.shards import shard_folders
from recallm_jax.evaluation.summaries import Row, across_lengths, averages, overall_rows
from recallm_jax.runtime import jsonl
from recallm_jax.runtime.errors import UserError
from storage.files import Path, write_whole

SUMMARY = "summary.json"
# Arguments of the check that a folder's rows have the same config and policy.
HELD: dict[str, Any] = {
    "may_change": MAY_CHANGE + TRAINING,
    "remedy": "give the same config and checkpoint, or another --label or --results",
}
_TEXTS = ("example_id", "dataset", "task", "label", "mode", "prompt", "completion")
_NUMBERS = ("target_length", "completion_tokens", "exact_match", "reward")
# The fields of a row, and of its spans, that are read.
_FIELDS: jsonl.Fields = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_NUMBERS, jsonl.NUMBER),
    "finished": bool,
    "span_starts": int,
    "span_ends": int,
    "ground_truth": dict,
    "spans": list,
}
_SPAN_FIELDS: jsonl.Fields = {"text": str, "closed": bool, "verbatim": bool}


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, without a last line that an interruption cut short.

    Raises:
      UserError: another line is not a whole row.
    """
    rows = []
    for number, row in enumerate(jsonl.read_rows(path, _FIELDS), 1):
        try:
            for span in row["spans"]:
                jsonl.check_fields(span, _SPAN_FIELDS)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} has a damaged span ({error}); delete that line, or the file"
            ) from None
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[Row], *, by: str = "") -> None:
    """Replace a file of rows; `by` names the writer, if several may write at the same time."""
    write_whole(path, lines(rows), by=by)


def lines(rows: Iterable[Row]) -> str:
    """Return rows as the text of a file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def keep_whole(path: Path, rows: Sequence[Row], samples: int) -> list[Row]:
    """Write back a file's rows without those of prompts that lack some; return the rest.

    Args:
      rows: the rows of the file.
      samples: the number of rows of a complete prompt.
    """
    whole = whole_prompts(rows, samples)
    if path.exists():
        write_rows(path, whole)
    return whole


def whole_prompts(rows: Sequence[Row], samples: int) -> list[Row]:
    """Return the rows of the prompts that have `samples` of them."""
    counts = collections.Counter(row["example_id"] for row in rows)
    return [row for row in rows if counts[row["example_id"]] == samples]


def rows_elsewhere(folder: Path, path: Path, *, samples: int, known: Sequence[Row]) -> list[Row]:
    """Return the rows of other prompts in the files of an evaluation and its shards like `path`.

    Args:
      samples: the number of responses that a prompt must have there.
      known: rows of `path` itself.
    """
    seen, found = {row["example_id"] for row in known}, []
    for other in (folder / path.name, *(each / path.name for each in shard_folders(folder))):
        if other != path:
            whole = whole_prompts(read_rows(other), samples)
            rows = [row for row in whole if row["example_id"] not in seen]
            seen |= {row["example_id"] for row in rows}
            found += rows
    return found


def write_in_order(
    path: Path, ids: Sequence[str], rows: Sequence[Row], *, by: str = ""
) -> list[Row]:
    """Write the rows in the order of the example ids; return the rows of these ids.

    Rows of other prompts come last.
    """
    numbers = {example_id: number for number, example_id in enumerate(ids)}
    ordered = sorted(rows, key=lambda row: numbers.get(row["example_id"], len(numbers)))
    write_rows(path, ordered, by=by)
    return [row for row in ordered if row["example_id"] in numbers]


def write_summaries(folder: Path, summaries: list[Row], *, by: str = "") -> None:
    """Write the summaries of an evaluation, and the metrics of its suites."""
    write_whole(folder / SUMMARY, json.dumps(summaries, indent=1), by=by)
    if means := averages(summaries):
        write_whole(folder / "averages.json", json.dumps(means, indent=1), by=by)
    if overall := overall_rows(summaries):
        rows = overall + across_lengths(overall)
        write_whole(folder / "suites.json", json.dumps(rows, indent=1), by=by)
