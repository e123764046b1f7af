"""The prompt of a question about a document, in two parts: up to the document's end, and the rest.

Its wording is one of those that `own_questions` trains on. The parts are encoded apart, so that all
questions about a document share the tokens of its part.
"""

import dataclasses
import re

import numpy as np
from jaxtyping import Bool, Int

from recallm_jax.runtime.errors import UserError
from tasks.datasets.own_questions import asked_last
from tasks.prompts.settings import TaskSettings
from tasks.prompts.span_edges import span_flags
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.vocabulary import START_RECALL, Tokenizer

# Makes a model that does not know recall spans yet begin with one.
QUOTE_FIRST = f"The context says: {START_RECALL}"
# Python reads bytes of an argument that are not UTF-8 as surrogates. No text holds a NUL.
_BROKEN = re.compile("[\ud800-\udfff]")
_BINARY = re.compile("\0")


@dataclasses.dataclass(frozen=True)
class DocumentPart:
    """The prompt up to the end of a document.

    Attributes:
      tokens: its tokens; `copyable`, `span_start` and `span_end` are flags for each of them.
      before: the number of its characters before the document.
    """

    text: str
    before: int
    tokens: Int[np.ndarray, " S"]
    copyable: Bool[np.ndarray, " S"]
    span_start: Bool[np.ndarray, " S"]
    span_end: Bool[np.ndarray, " S"]


def document_part(tokenizer: Tokenizer, document: str, settings: TaskSettings) -> DocumentPart:
    """Return the part of the prompt that all questions about a document share.

    Only the document may be copied. It stays text, whatever tokens it spells.

    Args:
      settings: give the system prompt, whether a thought is opened, and where spans may open.

    Raises:
      UserError: the document is empty or not text, or no span can begin in it.
    """
    _check("document", document, "give a text file")
    before, _ = asked_last("")
    user = before + document
    prompt = _whole(tokenizer, document, "", settings)
    start = prompt.rindex(user)
    text = prompt[: start + len(user)]
    ids = tokenizer.encode_quoting(text, (start, len(text)))
    inputs, offsets = tokenizer.encode_with_offsets(text, ids)
    documents = [(start + len(before), len(text))]
    flags = span_flags(tokenizer, text, inputs, offsets, documents, settings.span_alignment)
    if not (flags[0] & flags[1]).any():
        raise UserError(
            f"no recall span can begin in the document {document[:40]!r}: the tokenizer joins its "
            "characters with those around it; give a longer document"
        )
    return DocumentPart(text, start + len(before), np.asarray(inputs, np.int32), *flags)


def question_part(
    tokenizer: Tokenizer, document: str, question: str, settings: TaskSettings
) -> list[int]:
    """Return the tokens of the prompt after the document.

    The question stays text, whatever tokens it spells.

    Raises:
      UserError: the question has no words, or is not text.
    """
    _check("question", question, "give one, such as 'Who kept the lamp?'")
    question = question.strip()
    if not any(map(str.isalnum, question)):
        raise UserError(f"the question {question[:40]!r} has no word; ask in words")
    before, after = asked_last(question)
    prompt = _whole(tokenizer, document, question, settings)
    end = prompt.rindex(before + document + after) + len(before) + len(document)
    return tokenizer.encode_quoting(prompt[end:], (0, len(after)))


def _whole(tokenizer: Tokenizer, document: str, question: str, settings: TaskSettings) -> str:
    before, after = asked_last(question)
    system = settings.system_prompt(SYSTEMS[0])
    return tokenizer.chat_prompt(system, before + document + after, thinking=settings.thinking)


def _check(name: str, text: str, remedy: str) -> None:
    if not text.strip():
        raise UserError(f"the {name} is empty; {remedy}")
    if broken := _BROKEN.search(text):
        raise UserError(
            f"the {name} is not valid Unicode: its character {broken.start()} is "
            f"U+{ord(broken[0]):04X}, half of a character; give it in UTF-8"
        )
    if binary := _BINARY.search(text):
        raise UserError(
            f"the {name} is not text: its character {binary.start()} is U+0000; {remedy}"
        )
