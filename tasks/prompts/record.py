"""The record: one tokenised example, all that training and evaluation see of a task."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from storage.errors import naming
from storage.files import Path, as_path, make_folder, written_whole
from tasks.errors import TaskInputError
from tasks.scoring.truth import check_ground_truth


@dataclasses.dataclass(frozen=True)
class Record:
    """A prompt with its tokens, the tokens that may be copied, and the ground truth.

    Attributes:
      prompt: the whole chat-formatted text.
      inputs, offsets: its tokens and their character ranges.
      copyable, span_start, span_end: flags for each token (see `decoding/prompts.py`).
      targets: the tokens of a demonstration with the end-of-turn token; empty if there is none.
      ground_truth: "answers", "gold_documents" and "gold_ranges", "question_id" if other prompts
        may ask the same question, and further fields of `tasks.scoring.truth.GroundTruth`; empty
        if no right answer is known.
    """

    example_id: str
    dataset: str
    prompt: str
    inputs: Int[np.ndarray, " S"]
    offsets: Int[np.ndarray, "S 2"]
    copyable: Bool[np.ndarray, " S"]
    span_start: Bool[np.ndarray, " S"]
    span_end: Bool[np.ndarray, " S"]
    targets: Int[np.ndarray, " T"]
    ground_truth: dict[str, Any]


_ARRAYS = {
    "inputs": np.int32,
    "offsets": np.int32,
    "copyable": bool,
    "span_start": bool,
    "span_end": bool,
    "targets": np.int32,
}


def to_json(record: Record) -> str:
    """Return the record as one line of JSON."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    for name in _ARRAYS:
        fields[name] = fields[name].astype(np.int32).tolist()
    return json.dumps(fields, ensure_ascii=False)


def from_json(line: str | bytes) -> Record:
    """Read a record from one line of JSON.

    Raises:
      TaskInputError: a field is missing, of the wrong type or of the wrong length.
    """
    try:
        fields = json.loads(line)
        for name, dtype in _ARRAYS.items():
            fields[name] = _whole_numbers(name, fields[name], dtype)
        fields["offsets"] = fields["offsets"].reshape(-1, 2)
        record = Record(**fields)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise TaskInputError(
            f"not a valid record ({error}); write it with recallm_jax.prepare"
        ) from None
    for name in ("example_id", "dataset", "prompt"):
        if not isinstance(getattr(record, name), str):
            raise TaskInputError(f"{name} = {getattr(record, name)!r} must be a text")
    check_ground_truth(record.ground_truth)
    for name in ("offsets", "copyable", "span_start", "span_end"):
        if len(getattr(record, name)) != len(record.inputs):
            raise TaskInputError(
                f"{name} has {len(getattr(record, name))} entries for {len(record.inputs)} inputs; "
                "write the file again with recallm_jax.prepare"
            )
    if record.offsets.size and not 0 <= record.offsets.min() <= record.offsets.max() <= len(
        record.prompt
    ):
        raise TaskInputError(
            f"offsets reach from {record.offsets.min()} to {record.offsets.max()} in a prompt of "
            f"{len(record.prompt)} characters; write the file again with recallm_jax.prepare"
        )
    if (record.offsets[:, 0] > record.offsets[:, 1]).any():
        raise TaskInputError(
            "offsets has a token that ends before it begins; write the file again with "
            "recallm_jax.prepare"
        )
    return record


def _whole_numbers(name: str, value: Any, dtype: Any) -> np.ndarray:
    """Return a field of whole numbers as an array. NumPy would silently cut decimals off."""
    array = np.asarray(value)
    if array.size and array.dtype.kind not in "biu":
        raise ValueError(f"{name} has items that are not whole numbers")
    if array.ndim > 1 and name != "offsets":
        raise ValueError(f"{name} is not a flat list")
    return np.asarray(value, dtype)


def read_jsonl(path: str | Path) -> Iterator[Record]:
    """Yield the records of a file.

    Raises:
      TaskInputError: the file is missing, or a line is not a record.
    """
    path = as_path(path)
    if not path.is_file():
        raise TaskInputError(f"{path} does not exist; write it with recallm_jax.prepare")
    # As bytes, so that invalid UTF-8 is an error of its own line.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            with naming(f"{path}, line {number}"):
                yield from_json(line)


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Write records to a file, whole or not at all, and return their number."""
    path = as_path(path)
    make_folder(path.parent)
    count = 0
    with written_whole(path) as whole, open(whole, "w", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record) + "\n")
            count += 1
    return count
