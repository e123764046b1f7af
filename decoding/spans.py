"""Finding where each recall span of a response was copied from."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from decoding.arrays import AnyArray
from decoding.response_text import ResponseText
from decoding.rollout import Rollout
from decoding.span_copy import SpanRules, trace, whole_source


@dataclasses.dataclass(frozen=True)
class CopiedSpan:
    """One recall span of a response.

    Attributes:
      start, end: the range of the copied tokens in the response, without the recall tokens.
      closed: whether the end token follows.
      count: the number of places in the prompt that the span is a verbatim copy of.
      occurrences: the token ranges of the first of these places, in the prompt's order.
      response_count: the number of such places that end in the response, if spans may copy from
        the response.
      response_occurrences: the token ranges of the first of these, counted from the response's
        first token; a range that begins in the prompt has a negative start.
    """

    start: int
    end: int
    closed: bool
    count: int
    occurrences: tuple[tuple[int, int], ...]
    response_count: int = 0
    response_occurrences: tuple[tuple[int, int], ...] = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpanTrace:
    """The states of the span machine that locate each span in its source.

    Attributes:
      inside: whether a span is open before each token.
      low, high: the range of the prompt's sorted suffixes that agree with the open span.
      text: the responses' windows, if spans may copy from responses.
    """

    inside: Bool[AnyArray, "B G T"]
    low: Int[AnyArray, "B G T"]
    high: Int[AnyArray, "B G T"]
    text: ResponseText | None


def span_trace(rollout: Rollout, rules: SpanRules, budget: int) -> SpanTrace:
    """Run the machine over responses (`span_copy.trace`), and keep what `find_spans` reads.

    Call it under jit, so that the other states are never stored.

    Args:
      budget: the number of tokens that each row could emit when the response was sampled.
    """
    source = whole_source(rollout.prompts, rollout.index, rollout.tokens, rules)
    states = trace(rollout.tokens, source, rules, budget)
    locus = source.locus(states.places)
    return SpanTrace(states.inside, locus.low, locus.high, source.text)


def find_spans(
    rollout: Rollout,
    seen: SpanTrace,
    rules: SpanRules,
    *,
    max_occurrences: int = 8,
    fetch: Callable[[Any], Any] = jax.device_get,
) -> list[list[list[CopiedSpan]]]:
    """Return the spans of each response, on the host.

    Args:
      seen: the trace of this rollout.
      max_occurrences: the most places that are returned for a span; all are counted.
      fetch: copies arrays to the host, for all of their B prompts or for some.
    """
    index = rollout.index
    responses, lengths, suffixes, prompts, seen = fetch(
        (rollout.tokens, rollout.lengths, index.suffixes, index.text, seen)
    )

    def one_row(b: int, g: int) -> list[CopiedSpan]:
        length = int(lengths[b, g])
        inside = seen.inside[b, g, :length]
        tokens = responses[b, g, :length]
        opens = np.flatnonzero(~inside & (tokens == rules.start_token))
        closes = np.flatnonzero(inside & (tokens == rules.end_token))
        spans = []
        for number, opening in enumerate(opens):
            closed = number < len(closes)
            end = int(closes[number]) if closed else length
            start = int(opening) + 1
            depth = end - start
            # The state after the last copied token is the state before the token at `end`. If the
            # response ends inside the span, the machine has not seen its last token. Suffixes are
            # sorted by `max_length` tokens only. These further tokens are compared here.
            last = start + min(depth if closed else depth - 1, rules.max_length)
            places = np.zeros(0, int)
            if depth:
                places = np.sort(suffixes[b, seen.low[b, g, last] : seen.high[b, g, last]])
            if not closed or depth > rules.max_length:
                places = _verbatim(prompts[b], places, tokens[start:end])
            repeats = []
            if seen.text is not None and depth:
                repeats = _repeats(seen.text, b, g, tokens, start, end, rules.max_length)
            spans.append(
                CopiedSpan(
                    start=start,
                    end=end,
                    closed=closed,
                    count=len(places),
                    occurrences=tuple((p, p + depth) for p in places[:max_occurrences].tolist()),
                    response_count=len(repeats),
                    response_occurrences=tuple((p, p + depth) for p in repeats[:max_occurrences]),
                )
            )
        return spans

    return [[one_row(b, g) for g in range(lengths.shape[1])] for b in range(lengths.shape[0])]


def _verbatim(text: np.ndarray, places: np.ndarray, copied: np.ndarray) -> np.ndarray:
    """Return the places at which the text equals the copied tokens."""
    for offset, token in enumerate(copied):
        places = places[places + offset < len(text)]
        places = places[text[places + offset] == token]
    return places


def _repeats(
    text: ResponseText, b: int, g: int, tokens: np.ndarray, start: int, end: int, tail: int
) -> list[int]:
    """Return the places that a span copies and that end in the response, before the span."""
    copied = tokens[start:end]
    before = text.tokens[b, g, : tail + start - 1]
    if len(copied) > len(before):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(before, len(copied))
    places = np.flatnonzero((windows == copied).all(axis=1) & text.opens[b, g, : len(windows)])
    return [int(p) - tail for p in places if p + len(copied) > tail]
