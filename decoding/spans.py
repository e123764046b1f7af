"""Where each recall span of a response was copied from."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from decoding.span_copy import SpanRules, SpanState
from decoding.suffix_index import SuffixIndex


@dataclasses.dataclass(frozen=True)
class CopiedSpan:
    """One recall span of a response.

    Attributes:
      start, end: range of the copied tokens in the response, the recall tokens not counted.
      closed: whether the end token follows.
      count: places of the prompt that the span is a verbatim copy of; 0 if it is none.
      occurrences: the first of their token ranges in the prompt, in order of place.
    """

    start: int
    end: int
    closed: bool
    count: int
    occurrences: tuple[tuple[int, int], ...]


def find_spans(
    responses: Int[Array, "B G T"],
    lengths: Int[Array, "B G"],
    states: SpanState,
    index: SuffixIndex,
    rules: SpanRules,
    *,
    max_occurrences: int = 8,
) -> list[list[list[CopiedSpan]]]:
    """Return the spans of each response, on the host.

    Args:
      states: the machine before each token of the responses (`trace`).
      max_occurrences: how many places are returned for a span; all of them are counted.
    """
    responses, lengths, suffixes = jax.device_get((responses, lengths, index.suffixes))
    states = jax.device_get(states)

    def one_row(b: int, g: int) -> list[CopiedSpan]:
        length = int(lengths[b, g])
        inside = states.inside[b, g, :length]
        tokens = responses[b, g, :length]
        opens = np.flatnonzero(~inside & (tokens == rules.start_token))
        closes = np.flatnonzero(inside & (tokens == rules.end_token))
        spans = []
        for number, opening in enumerate(opens):
            closed = number < len(closes)
            end = int(closes[number]) if closed else length
            start = int(opening) + 1
            # The state after the last copied token stands before the token at `end`; of a span
            # that the response ends in, the machine has not seen the last token.
            matched = end if closed else end - 1
            places = _places(states, suffixes, b, g, matched) if end > start else []
            depth = end - start
            places = [p for p in places if closed or _matches(index, b, p, tokens[start:end])]
            spans.append(
                CopiedSpan(
                    start=start,
                    end=end,
                    closed=closed,
                    count=len(places),
                    occurrences=tuple((p, p + depth) for p in places[:max_occurrences]),
                )
            )
        return spans

    return [[one_row(b, g) for g in range(lengths.shape[1])] for b in range(lengths.shape[0])]


def _places(states: SpanState, suffixes: np.ndarray, b: int, g: int, t: int) -> list[int]:
    low, high = int(states.locus.low[b, g, t]), int(states.locus.high[b, g, t])
    return sorted(int(p) for p in suffixes[b, low:high])


def _matches(index: SuffixIndex, b: int, place: int, copied: Sequence[int]) -> bool:
    text = np.asarray(index.text[b, place : place + len(copied)])
    return text.tolist() == list(copied)
