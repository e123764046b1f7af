"""Which tokens of a prompt may be copied, and where a span may open and close."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from recall_spans.characters import joins, of_word
from recall_spans.rules import RecallSpansError, Rules
from recall_spans.tokens import TokenTable


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of S tokens, with a flag a token.

    Attributes:
      tokens: the ids.
      copyable: whether a token may be copied.
      opens, closes: whether a span may open at a token, and close after it.
    """

    tokens: np.ndarray
    copyable: np.ndarray
    opens: np.ndarray
    closes: np.ndarray


def flag_prompt(
    tokens: np.ndarray,
    table: TokenTable,
    rules: Rules,
    *,
    documents: Sequence[str] | None = None,
    padding: int = 0,
) -> Prompt:
    """Return a prompt with its flags.

    Args:
      tokens: the ids of the prompt.
      documents: the texts that may be copied, in their order in the prompt. None allows all of the
        prompt but the barriers. `paper_compatible` rules always allow all of it.
      padding: the number of leading tokens that pad the prompt.

    Raises:
      RecallSpansError: the prompt doesn't hold a document.
    """
    tokens = np.asarray(tokens, np.int32)
    known = (tokens >= 0) & (tokens < rules.vocab_size)
    copyable = known & ~np.isin(tokens, rules.all_barriers)
    copyable[:padding] = False
    if rules.paper_compatible or (documents is None and rules.span_alignment == "token"):
        return Prompt(tokens, copyable, copyable, copyable)
    ids = np.where(known, tokens, 0)
    text, starts, ends = _characters(ids, known, table)
    if documents is not None:
        inside = np.zeros(len(tokens), bool)
        at = 0
        for document in documents:
            at = text.find(document, at) if document else -1
            if at < 0:
                raise RecallSpansError(
                    f"the prompt doesn't hold the document {_shortened(document)!r} word for word; "
                    "give each document as the prompt has it, in the prompt's order"
                )
            inside |= (starts >= at) & (ends <= at + len(document))
            at += len(document)
        copyable &= inside
    if rules.span_alignment == "token":
        return Prompt(tokens, copyable, copyable, copyable)
    opens = table.begins_character[ids] & known
    # A token ends a character if the next token starts one.
    closes = np.append(opens[1:], True)
    if rules.span_alignment == "word":
        splits = _splits_word(text)
        opens = opens & ~splits[starts]
        closes &= ~splits[ends]
    return Prompt(tokens, copyable, copyable & opens, copyable & closes)


def _characters(
    ids: np.ndarray, known: np.ndarray, table: TokenTable
) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the text of tokens, and the range of characters of each.

    A token that holds part of a character has the range of the whole character. A byte that is not
    UTF-8 is a character of its own.
    """
    pieces = table.pieces
    raw = b"".join([pieces[token] for token in ids[known].tolist()])
    text = raw.decode("utf-8", errors="surrogateescape")
    points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    widths[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
    # One entry more, for tokens that end the text.
    character = np.append(np.repeat(np.arange(len(points)), widths), len(points))
    sizes = np.where(known, table.sizes[ids], 0)
    last = np.cumsum(sizes)
    first = last - sizes
    ends = np.where(sizes > 0, character[np.maximum(last - 1, 0)] + 1, character[first])
    return text, character[first], ends


def _splits_word(text: str) -> np.ndarray:
    """Return for every place of a text whether it lies inside a word, or before a sign of one."""
    splits = np.zeros(len(text) + 1, bool)
    if text:
        word = np.fromiter(map(of_word, text), bool, len(text))
        sign = np.fromiter(map(joins, text), bool, len(text))
        splits[1:-1] = (word[:-1] & word[1:]) | sign[1:]
    return splits


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
