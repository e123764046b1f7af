"""Responses that are decoded side by side: their prompts' indices, and their masks as pairs."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from recall_spans.machine import Allowed, Response
from recall_spans.prompt import flag_prompt
from recall_spans.rules import Rules
from recall_spans.suffix_index import SuffixIndex
from recall_spans.tokens import TokenTable


class Responses:
    """Starts responses; responses to the same prompt share its index."""

    def __init__(self, rules: Rules, table: TokenTable, *, kept: int):
        """Keep the indices of the `kept` prompts that were used last."""
        self.rules = rules
        self._table, self._kept = table, kept
        self._edges = table.edges(rules) if rules.copies_response else None
        self._indices: OrderedDict[tuple, SuffixIndex] = OrderedDict()

    def start(
        self,
        tokens: np.ndarray,
        *,
        documents: Sequence[str] | None,
        prefix_length: int,
        budget: int | None,
        padding: int = 0,
    ) -> Response:
        """Return the state of the response to a prompt.

        Args:
          tokens: the ids of the prompt, and of what the response is made to begin with.
          documents: the texts that may be copied (`flag_prompt`).
          prefix_length: the number of last tokens that belong to the response.
          budget: the most tokens that the response may have after these; None without a limit.
          padding: the number of leading tokens that pad the prompt.

        Raises:
          RecallSpansError: the prompt doesn't hold a document.
        """
        tokens = np.asarray(tokens, np.int32)
        prompt, prefix = np.split(tokens, [len(tokens) - prefix_length])
        key = (prompt.tobytes(), padding, None if documents is None else tuple(documents))
        index = self._indices.pop(key, None)
        if index is None:
            flagged = flag_prompt(
                prompt, self._table, self.rules, documents=documents, padding=padding
            )
            index = SuffixIndex(flagged, self.rules.max_length)
        self._indices[key] = index
        while len(self._indices) > self._kept:
            self._indices.popitem(last=False)
        budget = None if budget is None else budget + prefix_length
        response = Response(self.rules, index, self._edges, budget)
        response.advance(prefix)
        return response


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of some rows of a batch.

    Attributes:
      inside: the rows inside a span.
      allowed: rows and tokens: what the rows inside a span may go on with, and nothing else.
      never: rows and tokens: what other rows must not go on with.
    """

    inside: np.ndarray
    allowed: tuple[np.ndarray, np.ndarray]
    never: tuple[np.ndarray, np.ndarray]


def masks_of(rows: Iterable[tuple[int, Allowed]]) -> Masks:
    """Return the masks of rows, each with the tokens that it may go on with."""
    inside: list[int] = []
    sets: list[np.ndarray] = []
    never: list[tuple[int, int]] = []
    for row, allowed in rows:
        if allowed.only is None:
            never += [(row, token) for token in allowed.never]
        else:
            inside.append(row)
            sets.append(allowed.only)
    counts = [len(tokens) for tokens in sets]
    rows_of_sets = np.repeat(np.array(inside, np.int64), counts)
    tokens = np.concatenate([np.zeros(0, np.int64), *sets]).astype(np.int64)
    pairs = np.array(never, np.int64).reshape(-1, 2)
    return Masks(np.array(inside, np.int64), (rows_of_sets, tokens), (pairs[:, 0], pairs[:, 1]))
