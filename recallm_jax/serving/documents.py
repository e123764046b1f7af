"""Documents in the messages of a chat, and the places of quotes in each of them."""

import base64
import binascii
import bisect
import dataclasses
import html
import itertools
import re
from collections.abc import Sequence
from typing import Any

from recallm_jax.answering.answer import Answer
from recallm_jax.serving.errors import BadRequest

# Between two documents in the text that the model reads.
BETWEEN = "\n\n"
_TAGGED = re.compile(r"<document(?P<title>[^>]*)>\n?(?P<text>.*?)\n?</document>", re.DOTALL)
_TITLE = re.compile(r"""title\s*=\s*("[^"]*"|'[^']*')""")


@dataclasses.dataclass(frozen=True)
class Document:
    """A document of a request; the title is "" if it has none."""

    text: str
    title: str = ""


def joined(documents: Sequence[Document]) -> str:
    """Return the text of all documents, as the model reads it."""
    return BETWEEN.join(document.text for document in documents)


def citations(answer: Answer, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return a row for each place of each recall span of an answer to `joined` documents.

    A row has `span`, the span's number; `document`, that document's number; `title`, if it has one;
    `start` and `end`, characters of the document as it was given; and the `text` there.
    """
    sizes = [len(document.text) + len(BETWEEN) for document in documents]
    starts = [0, *itertools.accumulate(sizes)]
    rows = []
    for number, span in enumerate(answer.spans):
        for low, high in span.places:
            place = bisect.bisect_right(starts, low) - 1
            document, start = documents[place], starts[place]
            row: dict[str, Any] = {"span": number, "document": place}
            if document.title:
                row["title"] = document.title
            # A quote over the end of a document goes on in the next one.
            first, last = low - start, min(high - start, len(document.text))
            rows.append(row | {"start": first, "end": last, "text": document.text[first:last]})
    return rows


def split_tagged(text: str) -> tuple[str, list[Document]]:
    """Return a text without its `<document title="…">…</document>`, and these documents."""
    found = []
    for match in _TAGGED.finditer(text):
        title = _TITLE.search(match["title"])
        found.append(Document(match["text"], html.unescape(title[1][1:-1]) if title else ""))
    return _TAGGED.sub("", text).strip(), found


def document_of(part: dict[str, Any], name: str) -> Document:
    """Return the document of a message part, of type `document` or `file`.

    Raises:
      BadRequest: a field is missing or wrong, or the file is not text in UTF-8.
    """
    if part["type"] == "document":
        text, title = part.get("text"), part.get("title") or ""
        if not isinstance(text, str) or not isinstance(title, str):
            raise BadRequest(f"{name}.text and {name}.title must be texts", name)
        return Document(text, title)
    file = part.get("file")
    file = file if isinstance(file, dict) else {}
    data = file.get("file_data")
    if not isinstance(data, str):
        raise BadRequest(f"{name}.file.file_data is missing; give the file as base64", name)
    _, _, encoded = data.rpartition(",")
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadRequest(f"{name}.file.file_data is not base64 of text in UTF-8", name) from None
    return Document(text, str(file.get("filename") or ""))
