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
from tasks.prompts.vocabulary import Tokenizer
from tasks.scoring.truth import check_ground_truth

ALIGNMENTS = ("character", "word", "token")


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


def span_flags(
    tokenizer: Tokenizer,
    text: str,
    inputs: Int[np.ndarray, " S"] | list[int],
    offsets: Int[np.ndarray, "S 2"],
    documents: list[tuple[int, int]],
    alignment: str,
) -> tuple[Bool[np.ndarray, " S"], Bool[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
    """Return which tokens may be copied, and where a span may open and close.

    Args:
      documents: character ranges of `text` that may be copied; a token must lie wholly inside
        one. Added tokens may never be copied.
      alignment: whether spans open and close at boundaries of characters ("character"), of words
        ("word": runs of letters and digits), or anywhere ("token", the paper's rule).
    """
    if alignment not in ALIGNMENTS:
        raise TaskInputError(
            f"span_alignment {alignment!r} is unknown; use one of {', '.join(ALIGNMENTS)}"
        )
    starts, ends = offsets[:, 0], offsets[:, 1]
    copyable = np.zeros(len(inputs), bool)
    for low, high in documents:
        copyable |= (starts >= low) & (ends <= high)
    copyable &= ~np.isin(inputs, list(tokenizer.special_ids))
    if alignment == "token":
        return copyable, copyable.copy(), copyable.copy()

    opens = tokenizer.begins_character[inputs]
    # A token ends a character if the next token starts one.
    closes = np.append(opens[1:], True) if len(opens) else opens
    if alignment == "word":

        def splits_word(place: int) -> bool:
            return 0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum()

        opens &= np.array([not splits_word(place) for place in starts])
        closes &= np.array([not splits_word(place) for place in ends])
    return copyable, copyable & opens, copyable & closes


def token_edges(tokenizer: Tokenizer, alignment: str) -> bytes:
    """Return one byte for each token that says how it begins and ends, as `span_flags` sees it.

    Bit 1: the token begins a character. Bits 2 and 4: its first and its last character is a letter
    or a digit. Only "word" sets bits 2 and 4; "token" always sets bit 1. A character of which the
    token holds only a part counts as a letter.
    """
    if alignment == "token":
        return bytes([1] * tokenizer.size)

    def edges(piece: bytes) -> int:
        begins = piece[:1] != b"" and piece[0] & 0xC0 != 0x80
        if alignment == "character" or not piece:
            return int(begins)
        text = piece.decode("utf-8", errors="replace").replace("\ufffd", "a")
        return begins | 2 * text[0].isalnum() | 4 * text[-1].isalnum()

    return bytes(edges(piece) for piece in tokenizer.token_bytes)
