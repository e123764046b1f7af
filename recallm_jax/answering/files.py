"""Documents and questions from files, and answers as JSON."""

import json
from typing import Any

from recallm_jax.answering.answer import Answer
from recallm_jax.answering.questions import Pair
from recallm_jax.runtime.errors import UserError
from storage.files import as_path, read_text


def read_document(path: str) -> str:
    """Return the text of a document, line ends as they are.

    Raises:
      UserError: the file can't be read, or is not text in UTF-8.
    """
    return _read(f"--document={path}", path)


def read_questions(path: str, document: str | None) -> list[Pair]:
    """Return the documents and questions of a JSONL file.

    A row has `question`, and `document` (a text) or `document_file` (a path, seen from the file's
    folder), unless one document is given for all rows.

    Raises:
      UserError: the file or a document can't be read, or a row lacks a field.
    """
    flag = f"--questions={path}"
    pairs: list[Pair] = []
    documents: dict[str, str] = {}
    for number, line in enumerate(_read(flag, path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{flag}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is not JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f'{where} is not an object; write {{"question": …}}')
        question = row.get("question")
        if not isinstance(question, str):
            raise UserError(f"{where}: question = {question!r} must be a text")
        text = row.get("document", document)
        if file := row.get("document_file"):
            if not isinstance(file, str):
                raise UserError(f"{where}: document_file = {file!r} must be a path")
            if file not in documents:
                name = f"{where}: document_file = {file!r}"
                documents[file] = _read(name, str(as_path(path).parent / file))
            text = documents[file]
        if not isinstance(text, str):
            raise UserError(
                f"{where} has no text as its document; give document or document_file there, or "
                "--document for all rows"
            )
        pairs.append((text, question))
    if not pairs:
        raise UserError(f"{flag} holds no question; write one object a line")
    return pairs


def answer_row(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain values, for JSON, without its document."""
    return {
        "number": answer.number,
        "question": answer.question,
        "answer": answer.answer,
        "text": answer.text,
        "finished": answer.finished,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "spans": [
            {
                "text": span.text,
                "closed": span.closed,
                "chars": list(span.chars),
                "places": [list(place) for place in span.places],
            }
            for span in answer.spans
        ],
    }


def _read(name: str, path: str) -> str:
    try:
        return read_text(as_path(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{name} can't be read: {reason}; give a text file") from None
