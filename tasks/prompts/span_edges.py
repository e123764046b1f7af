"""Where spans may open and close: at boundaries of characters, of words, or anywhere.

A word is a run of letters and digits of any script, with the signs that belong to them: combining
marks (vowel signs, harakat, accents), joiners and other invisible format characters. As in the
rules of Unicode for words (UAX #29, WB4), nothing separates such a sign from the character before
it. Scripts without spaces, such as Thai and Chinese, have runs as long as a clause.
"""

import functools
import unicodedata

import numpy as np
from jaxtyping import Bool, Int

from tasks.errors import TaskInputError
from tasks.prompts.vocabulary import Tokenizer

ALIGNMENTS = ("character", "word", "token")
# A zero-width space separates words although its category is that of the joiners.
_SEPARATES = "\u200b"


@functools.cache
def _belongs_to_the_one_before(character: str) -> bool:
    """Return whether a character is a mark, a joiner, or another sign of the character before."""
    category = unicodedata.category(character)
    return category[0] == "M" or (category == "Cf" and character != _SEPARATES)


@functools.cache
def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or _belongs_to_the_one_before(character)


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
        ("word"), or anywhere ("token", the paper's rule).
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
            if not 0 < place < len(text):
                return False
            before, after = text[place - 1], text[place]
            in_word = _is_of_a_word(before) and _is_of_a_word(after)
            return in_word or _belongs_to_the_one_before(after)

        opens &= np.array([not splits_word(place) for place in starts])
        closes &= np.array([not splits_word(place) for place in ends])
    return copyable, copyable & opens, copyable & closes


def token_edges(tokenizer: Tokenizer, alignment: str) -> bytes:
    """Return one byte for each token that says how it begins and ends, as `span_flags` sees it.

    Bit 1: the token begins a unit: a character, and with "word" no sign of the character before.
    Bits 2 and 4: its first and its last character is of a word. Only "word" sets bits 2 and 4;
    "token" always sets bit 1. A character of which the token holds only a part counts as a letter.
    """
    if alignment == "token":
        return bytes([1] * tokenizer.size)

    def edges(piece: bytes) -> int:
        begins = piece[:1] != b"" and piece[0] & 0xC0 != 0x80
        if alignment == "character" or not piece:
            return int(begins)
        text = piece.decode("utf-8", errors="replace").replace("\ufffd", "a")
        begins = begins and not _belongs_to_the_one_before(text[0])
        return begins | 2 * _is_of_a_word(text[0]) | 4 * _is_of_a_word(text[-1])

    return bytes(edges(piece) for piece in tokenizer.token_bytes)
