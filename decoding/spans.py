"""Where each recall span of a response was copied from."""

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
      start, end: range of the copied tokens in the response, the recall tokens not counted.
      closed: whether the end token follows.
      count: places of the prompt that the span is a verbatim copy of.
      occurrences: the first of their token ranges in the prompt, in order of place.
      response_count: places that end in the response, where spans may be copied from it.
      response_occurrences: the first of their token ranges, counted from the response's first
        token; one that begins in the prompt has a negative start.
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
      low, high: the prompt's suffixes that it agrees with then.
      text: of the responses, where spans may be copied from it.
    """

    inside: Bool[AnyArray, "B G T"]
    low: Int[AnyArray, "B G T"]
    high: Int[AnyArray, "B G T"]
    text: ResponseText | None


def span_trace(rollout: Rollout, rules: SpanRules, budget: int) -> SpanTrace:
    """Run the machine over responses (`span_copy.trace`); jitted, nothing else of it is kept.

    Args:
      budget: tokens that each row could emit when the response was sampled.
    """
    source = whole_source(rollout.prompts, rollout.index, rollout.tokens, rules)
    states = trace(rollout.tokens, source, rules, budget)
    return SpanTrace(states.inside, *source.prompt_suffixes(states.places), source.text)


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
      max_occurrences: how many places are returned for a span; all of them are counted.
      fetch: brings arrays to the host, whole or some of their B prompts.
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
            # The state after the last copied token stands before the token at `end`; of a span
            # that the response ends in, the machine has not seen the last token. Suffixes are
            # sorted by `max_length` tokens: what is copied past them is compared here.
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
    """Return those of the places where the text is what was copied."""
    for offset, token in enumerate(copied):
        places = places[places + offset < len(text)]
        places = places[text[places + offset] == token]
    return places


def _repeats(
    text: ResponseText, b: int, g: int, tokens: np.ndarray, start: int, end: int, tail: int
) -> list[int]:
    """Return the places before a span, of the window that ends in the response, that it copies."""
    copied = tokens[start:end]
    before = text.tokens[b, g, : tail + start - 1]
    if len(copied) > len(before):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(before, len(copied))
    places = np.flatnonzero((windows == copied).all(axis=1) & text.opens[b, g, : len(windows)])
    return [int(p) - tail for p in places if p + len(copied) > tail]
