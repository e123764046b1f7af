"""The bytes of a byte-level tokenizer's tokens, and how each token begins and ends."""

import functools
from collections.abc import Mapping

import numpy as np

from recall_spans.characters import joins, of_word
from recall_spans.rules import RecallSpansError, Rules

# Bits that say how a token begins and ends: it begins a unit (such as a character); its first
# character belongs to a word; its last character does.
BEGINS, WORD_FIRST, WORD_LAST = 1, 2, 4


class TokenTable:
    """The tokens of a vocabulary.

    Attributes:
      pieces: the bytes of every id; b"" for ids without a token.
    """

    def __init__(self, vocabulary: Mapping[str, int], added: Mapping[int, str], size: int):
        """Read a vocabulary.

        Args:
          vocabulary: the ids of byte-level tokens, spelled as in tokenizer.json.
          added: the text of each added token, by its id.
          size: the number of ids.

        Raises:
          RecallSpansError: a token isn't byte-level.
        """
        self.pieces = [b""] * size
        byte_of = byte_of_character()
        for token, number in vocabulary.items():
            if number in added or number >= size:
                continue
            try:
                self.pieces[number] = bytes([byte_of[character] for character in token])
            except KeyError:
                raise RecallSpansError(
                    f"token {token!r} is not byte-level; use a byte-level BPE tokenizer "
                    "(Llama 3, Qwen2/2.5/3, SmolLM2)"
                ) from None
        for number, text in added.items():
            if number < size:
                self.pieces[number] = text.encode()

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """The number of bytes of each token [V]."""
        return np.array([len(piece) for piece in self.pieces])

    @functools.cached_property
    def begins_character(self) -> np.ndarray:
        """Whether the first byte of each token begins a character [V]."""
        return np.array([piece[:1] != b"" and piece[0] & 0xC0 != 0x80 for piece in self.pieces])

    def edges(self, rules: Rules) -> np.ndarray:
        """Return how each token begins and ends in a response, as bits [V]."""
        if rules.paper_compatible or rules.span_alignment == "token":
            return np.full(len(self.pieces), BEGINS, np.uint8)
        if rules.span_alignment == "character":
            return self.begins_character.astype(np.uint8)
        return self._word_edges

    @functools.cached_property
    def _word_edges(self) -> np.ndarray:
        edges = self.begins_character.astype(np.uint8)
        for number, piece in enumerate(self.pieces):
            if piece:
                # A character of which the token holds only a part counts as a letter.
                text = piece.decode("utf-8", errors="replace").replace("\ufffd", "a")
                edges[number] &= not joins(text[0])
                edges[number] |= WORD_FIRST * of_word(text[0]) | WORD_LAST * of_word(text[-1])
        return edges


def table_of_json(content: dict, size: int) -> TokenTable:
    """Return the tokens of the content of a tokenizer.json."""
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    return TokenTable(content["model"]["vocab"], added, size)


@functools.cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for.

    Printable characters of Latin-1 stand for themselves, the other bytes for U+0100 and upwards.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + number): byte for number, byte in enumerate(others)},
    }
