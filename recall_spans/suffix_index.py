"""The sorted suffixes of a prompt: all places that a span may have been copied from are one range.

Suffixes are sorted by their first `max_length` tokens. Those that agree with the d tokens of an
open span are a range of that order, in the order of their next tokens. So a search by the next
token narrows the range, and its distinct next tokens lie side by side.
"""

import numpy as np

from recall_spans.prompt import Prompt

# Stands for a token that may not be copied. No match crosses it; it sorts before every token.
BARRIER = -1


class SuffixIndex:
    """The suffixes of a prompt on which a span may open.

    Memory: 10 bytes a token of the prompt.

    Attributes:
      text: the tokens, with BARRIER for those that may not be copied, and past the end.
      suffixes: the start positions, sorted.
      root: the tokens that a span may begin with, each once, in order.
    """

    def __init__(self, prompt: Prompt, max_length: int):
        """Sort the suffixes, in at most ceil(log2(max_length)) sorts."""
        self.prompt = prompt
        text = np.where(prompt.copyable, prompt.tokens, BARRIER).astype(np.int32)
        # Spans of fewer than `max_length` tokens are looked up, so no place is past these.
        self.text = np.append(text, np.full(max_length + 1, BARRIER, np.int32))
        self._closes = np.append(prompt.closes, np.zeros(max_length + 1, bool))
        order = sort_suffixes(text, max_length)
        self.suffixes = order[(prompt.copyable & prompt.opens)[order]].astype(np.int32)
        self.root = self._distinct(0, len(self.suffixes), 0)

    def descend(self, low: int, high: int, depth: int, token: int) -> tuple[int, int]:
        """Return the range of the suffixes [low, high) whose token after `depth` is `token`."""
        return self._first(low, high, depth, token), self._first(low, high, depth, token + 1)

    def _first(self, low: int, high: int, depth: int, token: int) -> int:
        """Return the first of the suffixes [low, high) whose next token is at least `token`."""
        suffixes, text = self.suffixes, self.text
        while low < high:
            middle = (low + high) // 2
            if text[suffixes[middle] + depth] < token:
                low = middle + 1
            else:
                high = middle
        return low

    def next_tokens(self, low: int, high: int, depth: int) -> np.ndarray:
        """Return the distinct tokens that follow the suffixes [low, high) after `depth` tokens."""
        return self.root if depth == 0 else self._distinct(low, high, depth)

    def _distinct(self, low: int, high: int, depth: int) -> np.ndarray:
        following = self.text[self.suffixes[low:high] + depth]
        if len(following) > 1:
            following = following[np.append(True, following[1:] != following[:-1])]
        return following[following != BARRIER]

    def may_close(self, low: int, high: int, depth: int) -> bool:
        """Return whether a span of `depth` >= 1 tokens may close at one of the places."""
        return bool(self._closes[self.suffixes[low:high] + (depth - 1)].any())


def sort_suffixes(text: np.ndarray, length: int) -> np.ndarray:
    """Return the positions of a text in the order of their next `length` tokens, by doubling.

    Only suffixes that are still tied are sorted again.
    """
    size = len(text)
    if size == 0:
        return np.zeros(0, np.int64)
    # BARRIER is 0 here, and so is what lies past the end.
    symbols = text.astype(np.int64) + 1
    key = symbols * (1 + symbols.max()) + np.append(symbols[1:], 0)
    order = np.argsort(key, kind="stable")
    # The rank of a suffix is the place of the first one that it is tied with.
    first = _firsts(key[order])
    rank = np.empty(size, np.int64)
    rank[order] = first
    known = 2
    while known < length:
        tied = _tied(first)
        if not tied.size:
            break
        suffixes = order[tied]
        after = suffixes + known
        following = np.where(after < size, rank[np.minimum(after, size - 1)] + 1, 0)
        key = rank[suffixes] * (size + 1) + following
        again = np.argsort(key, kind="stable")
        order[tied] = suffixes[again]
        first[tied] = tied[_firsts(key[again])]
        rank[order[tied]] = first[tied]
        known *= 2
    return order


def _firsts(values: np.ndarray) -> np.ndarray:
    """Return for each of sorted values the place of the first one that equals it."""
    places = np.arange(len(values))
    starts = np.append(True, values[1:] != values[:-1])
    return np.maximum.accumulate(np.where(starts, places, 0))


def _tied(first: np.ndarray) -> np.ndarray:
    """Return the places of suffixes that share their rank with another."""
    starts = first == np.arange(len(first))
    alone = starts & np.append(starts[1:], True)
    return np.flatnonzero(~alone)
