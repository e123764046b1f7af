"""The state machine of recall spans: which tokens a response may go on with.

* **Outside a span**: every token of the tokenizer except the end token. The start token is allowed
  only if there is something to copy, and if the budget has room for the shortest span with its end.
* **Inside a span** of d copied tokens: the tokens that continue some match of them. The end token
  is allowed if d is at least `min_length` and a span may close there, and always if no match goes
  on.
* **Forced end**: after `max_length` tokens, or with one token of budget left, only the end token.

`paper_compatible` allows the start and the end token everywhere outside a span, and the end token
everywhere inside one.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from recall_spans.response import ResponseWindow
from recall_spans.rules import Rules
from recall_spans.suffix_index import SuffixIndex

_NOWHERE = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The tokens that a response may go on with.

    Attributes:
      only: inside a span, the allowed ids; None outside.
      never: outside a span, the ids below `vocab_size` that are forbidden.
    """

    only: np.ndarray | None
    never: tuple[int, ...]


class Response:
    """The state of one response, before its next token."""

    def __init__(
        self, rules: Rules, index: SuffixIndex, edges: np.ndarray | None, budget: int | None
    ):
        """Start before the first token of a response.

        Args:
          index: the index of its prompt.
          edges: how tokens begin and end; only rules that copy from responses read them.
          budget: the most tokens that the response may have; None if nothing limits it.
        """
        self._rules, self._index, self._budget = rules, index, budget
        self._window = None
        if rules.copies_response:
            assert edges is not None
            self._window = ResponseWindow(index.prompt, rules, edges)
        self._inside = False
        self._low = self._high = self._depth = 0
        self._places = _NOWHERE

    def advance(self, tokens: Iterable[int]) -> None:
        """Move by the tokens that the response goes on with."""
        for token in tokens:
            self._advance(int(token))

    def _advance(self, token: int) -> None:
        if self._window is not None:
            self._window.append(token)
        if self._budget is not None:
            self._budget -= 1
        rules = self._rules
        if not self._inside:
            if token == rules.start_token_id:
                self._inside = True
                self._low, self._high, self._depth = 0, len(self._index.suffixes), 0
                if self._window is not None:
                    self._places = self._window.openings()
            return
        if token == rules.end_token_id:
            self._inside = False
            return
        if self._depth < rules.max_length:
            self._low, self._high = self._index.descend(self._low, self._high, self._depth, token)
            if self._window is not None:
                self._places = self._window.follow(self._places, token)
        self._depth += 1

    def allowed(self) -> Allowed:
        """Return the tokens that may come next."""
        if not self._inside:
            return Allowed(None, self._never())
        rules = self._rules
        ending = np.array([rules.end_token_id])
        spent = self._budget is not None and self._budget <= 1 and not rules.paper_compatible
        if self._depth >= rules.max_length or spent:
            return Allowed(ending, ())
        following = self._index.next_tokens(self._low, self._high, self._depth)
        if self._window is not None:
            more = self._window.next_tokens(self._places)
            following = np.union1d(following, more) if more.size else following
        if not following.size:
            return Allowed(ending, ())
        if self._may_close():
            following = np.append(following, ending)
        return Allowed(following, ())

    def _never(self) -> tuple[int, ...]:
        rules = self._rules
        if rules.paper_compatible:
            return ()
        room = self._budget is None or self._budget >= rules.min_length + 2
        if room and (
            len(self._index.suffixes) or (self._window is not None and self._window.may_open())
        ):
            return (rules.end_token_id,)
        return (rules.start_token_id, rules.end_token_id)

    def _may_close(self) -> bool:
        if self._rules.paper_compatible:
            return True
        if self._depth < self._rules.min_length:
            return False
        return self._index.may_close(self._low, self._high, self._depth) or (
            self._window is not None and self._window.may_close(self._places)
        )
