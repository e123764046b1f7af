"""Read the benchmark's own rows from `validation.jsonl` files.

A row is named by its line number, because `index` is not a row number in files of the needle tasks.
"""

import json
import unicodedata
from typing import Any

from storage.errors import naming
from storage.files import reading
from tasks.errors import TaskInputError
from tasks.sources import table
from tasks.suites.ruler.prompts import CWE, FWE, NIAH, NIAH_ONE, QA, VT, Prompt


def find_file(data_dir: str, task: str, length: int) -> str | None:
    """Find the file of a task, such as DATA/ruler/4096/vt/validation.jsonl or DATA/vt/….

    Raises:
      TaskInputError: the folder can't be read.
    """
    patterns = (f"ruler/{length}/{task}/validation.jsonl", f"{task}/validation.jsonl")
    paths = table.find(data_dir, patterns) if data_dir else []
    return paths[0] if paths else None


def read_prompts(path: str, task: str, length: int, count: int) -> list[Prompt]:
    """Read the first `count` rows of a file.

    Raises:
      TaskInputError: a line is not a row, or the file has too few rows, or rows of another length.
    """
    try:
        with reading(path) as file:
            lines = file.read().splitlines()
    except (OSError, ValueError) as error:
        raise TaskInputError(f"{path} can't be read ({error}); download it again") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < count:
        raise TaskInputError(
            f"{path} holds {len(lines)} rows, but evaluation.num_examples = {count}; lower it"
        )
    prompts, longest = [], 0
    for number, line in enumerate(lines[:count], 1):
        with naming(f"{path}, line {number}"):
            row = _fields(line)
            longest = max(longest, row["length"])
            if longest > length:
                raise TaskInputError(
                    f"length = {longest} is above the target length {length}; {_LENGTH_REMEDY}"
                )
            prompts.append(_prompt(row, task))
    # Rows of essays may be half as long as the name of their folder says.
    if f"/{length}/" not in path and longest <= length // 2:
        raise TaskInputError(
            f"{path} has rows of at most {longest} tokens for the target length {length}; "
            f"{_LENGTH_REMEDY}"
        )
    return prompts


_LENGTH_REMEDY = "set evaluation.lengths to the file's length, or put the file in ruler/LENGTH/TASK"
_KINDS: dict[str, tuple[type, ...]] = {
    "input": (str,),
    "answer_prefix": (str,),
    "outputs": (list,),
    "length": (int,),
}


def _fields(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskInputError(f"not JSON ({error}); download it again") from None
    if not isinstance(row, dict):
        raise TaskInputError("not a JSON object; download it again")
    for name, kinds in _KINDS.items():
        if name not in row:
            raise TaskInputError(
                f"no field {name!r}; this is not a row of RULER (HELMET's rows have another layout)"
            )
        if not isinstance(row[name], kinds) or isinstance(row[name], bool):
            raise TaskInputError(f"{name} = {row[name]!r} must be {kinds[0].__name__}")
    outputs = row["outputs"]
    if not outputs or not all(isinstance(text, str) and text.strip() for text in outputs):
        raise TaskInputError(f"outputs = {outputs!r} must be texts, at least one, and no blank one")
    if any("\ud800" <= character <= "\udfff" for character in row["input"] + row["answer_prefix"]):
        raise TaskInputError("input is not valid Unicode; download it again")
    # Some tokenizers compose characters, but tokens must have exact places in the text.
    for name in ("input", "answer_prefix"):
        row[name] = unicodedata.normalize("NFC", row[name])
    return row


def _prompt(row: dict[str, Any], task: str) -> Prompt:
    text = row["input"]
    templates = {"vt": (VT,), "cwe": (CWE,), "fwe": (FWE,), "qa_1": (QA,), "qa_2": (QA,)}
    for template in templates.get(task, (NIAH, NIAH_ONE)):
        head, tail = (part.rpartition("}")[2] for part in template.split("{context}"))
        # The template's text from the context to the next field.
        tail = template.split("{context}")[1].partition("{")[0]
        # The worked examples of vt and cwe come first, so the last question is the row's own.
        end = text.rfind(tail)
        start = text.rfind(head, 0, max(end, 0)) + len(head)
        if end >= start >= len(head):
            question = text[end + len(tail) :] if template is QA else ""
            outputs = tuple(row["outputs"])
            return Prompt(text, row["answer_prefix"], (start, end), (), outputs, question)
    raise TaskInputError(f"input is not a prompt of ruler_{task}; is this another task's file?")
