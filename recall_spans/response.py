"""Copying from the response itself, for `copy_source = "prompt+response"`.

A row has a window: the last `max_length` tokens of the prompt, then the response. Every place of
the window is compared, so a match may run from the prompt into the response.
"""

import numpy as np

from recall_spans.prompt import Prompt
from recall_spans.rules import Rules
from recall_spans.suffix_index import BARRIER
from recall_spans.tokens import BEGINS, WORD_FIRST, WORD_LAST


class ResponseWindow:
    """The text of one row that its spans copy from besides the prompt's index."""

    def __init__(self, prompt: Prompt, rules: Rules, edges: np.ndarray):
        """Begin with the prompt's last tokens.

        Args:
          edges: how each token begins and ends (`TokenTable.edges`).
        """
        self._edges = edges
        self._copyable = ~np.isin(np.arange(rules.vocab_size), rules.all_barriers)
        tail = slice(max(0, len(prompt.tokens) - rules.max_length), None)
        self._size = self._tail = len(prompt.tokens[tail])
        tokens = np.where(prompt.copyable, prompt.tokens, BARRIER)[tail]
        self._tokens = np.append(tokens, BARRIER).astype(np.int32)
        self._opens = np.append((prompt.copyable & prompt.opens)[tail], False)
        self._closes = np.append(prompt.closes[tail], False)
        self._newest = int(prompt.tokens[-1]) if len(prompt.tokens) else 0

    def append(self, token: int) -> None:
        """Add the response's next token."""
        if self._size + 1 == len(self._tokens):
            self._tokens = np.append(self._tokens, np.full(self._size + 16, BARRIER, np.int32))
            self._opens, self._closes = (
                np.append(flags, np.zeros(self._size + 16, bool))
                for flags in (self._opens, self._closes)
            )
        boundary = self._boundary(self._newest, token)
        known = 0 <= token < len(self._copyable) and self._copyable[token]
        self._tokens[self._size] = token if known else BARRIER
        self._opens[self._size] = boundary and known
        # Whether a span may close after the prompt's last token is decided by the prompt.
        if self._size > self._tail:
            self._closes[self._size - 1] = boundary
        self._newest = token
        self._size += 1

    def _boundary(self, before: int, after: int) -> bool:
        """Return whether a unit begins between two tokens."""
        known = len(self._edges)
        first = self._edges[before] if 0 <= before < known else 0
        second = self._edges[after] if 0 <= after < known else 0
        return bool(second & BEGINS) and not (first & WORD_LAST and second & WORD_FIRST)

    def may_open(self) -> bool:
        """Return whether a span could open at some place."""
        return bool(self._opens[: self._size].any())

    def openings(self) -> np.ndarray:
        """Return the places that a span may begin at which opens with the newest token."""
        return np.flatnonzero(self._opens[: self._size - 1])

    def follow(self, places: np.ndarray, token: int) -> np.ndarray:
        """Return the places after those of `places` that hold `token`."""
        return places[self._tokens[places] == token] + 1

    def next_tokens(self, places: np.ndarray) -> np.ndarray:
        """Return the tokens at these places, without barriers."""
        tokens = self._tokens[places]
        return tokens[tokens != BARRIER]

    def may_close(self, places: np.ndarray) -> bool:
        """Return whether a span may close before one of these places."""
        return bool(self._closes[places - 1].any())
