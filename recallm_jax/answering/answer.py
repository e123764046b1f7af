"""What comes back for a question: the response, its answer, and its spans in the document."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from tasks.prompts.vocabulary import Tokenizer
from tasks.scoring.answers import extract_answer

Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Span:
    """A recall span of a response.

    Attributes:
      text: what was copied.
      chars: its range of characters in the response.
      places: the ranges of characters of the document as it was given that hold this text, all of
        them in order. The model copied one of them.
      closed: whether the span was ended; one that was cut off may still be a copy.
    """

    text: str
    chars: Range
    places: tuple[Range, ...]
    closed: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """The response to a question about a document.

    Attributes:
      number: the question's place among those that were asked together.
      text: the whole response, thought and recall tokens included.
      answer: what stands after "Answer:", without markup; "" if that is missing.
      finished: whether the model ended the response; otherwise it was cut at the limit.
      prompt_tokens, tokens: of the prompt, and of the response with its end token.
    """

    number: int
    document: str
    question: str
    text: str
    answer: str
    spans: tuple[Span, ...]
    finished: bool
    prompt_tokens: int
    tokens: int


def read_spans(tokens: Sequence[int], tokenizer: Tokenizer, document: str) -> tuple[Span, ...]:
    """Return the recall spans of a response, with their places in a document.

    Spans are found by their tokens: a document may spell `<|start_recall|>`, too.
    """
    spans, start = [], None
    for place, token in enumerate([*tokens, None]):
        if start is None:
            start = place + 1 if token == tokenizer.start_recall_id else None
        elif token in (tokenizer.end_recall_id, None):
            copied = tokenizer.decode(tokens[start:place])
            first = len(tokenizer.decode(tokens[:start]))
            raw = b"".join(tokenizer.token_bytes[one] for one in tokens[start:place])
            spans.append(
                Span(
                    text=copied,
                    chars=(first, first + len(copied)),
                    places=tuple(_places(raw, document)),
                    closed=token is not None,
                )
            )
            start = None
    return tuple(spans)


def _places(copied: bytes, document: str) -> Iterator[Range]:
    """Yield the whole characters of a document that hold the copied bytes, in order.

    A span may begin or end inside a character where the rules let it, or where it was cut.
    """
    if not copied:
        return
    raw = document.encode()
    # The number of characters that begin before each byte.
    begun = np.cumsum(np.frombuffer(b"\0" + raw, np.uint8) & 0xC0 != 0x80) - 1
    for found in re.finditer(b"(?=%s)" % re.escape(copied), raw):
        low, high = found.start(), found.start() + len(copied)
        yield int(begun[low + 1]) - 1, int(begun[high])


def read_answer(
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    *,
    number: int,
    asked: tuple[str, str],
    prompt_tokens: int,
    limit: int,
) -> Answer:
    """Return the answer that a response's tokens spell.

    Args:
      asked: the document and the question.
      limit: the most tokens of an answer; further ones are left out.
    """
    tokens = tokens[:limit]
    document, question = asked
    finished = len(tokens) > 0 and tokens[-1] in tokenizer.end_ids
    text = tokenizer.decode(tokens[: len(tokens) - finished])
    spans = read_spans(tokens[: len(tokens) - finished], tokenizer, document)
    return Answer(
        number=number,
        document=document,
        question=question,
        text=text,
        answer=extract_answer(text),
        spans=spans,
        finished=bool(finished),
        prompt_tokens=prompt_tokens,
        tokens=len(tokens),
    )
