"""The retrieval reward: are the right passages recalled, well-formed, and not too often?

R_ret = overlap * usage * density (arXiv 2604.09494, section 4.3 and appendix D.3).
"""

import math
from collections.abc import Sequence

from rl.rewards.categories import Category


def copy_f1(span: str, document: str) -> float:
    """Return 2 I / (|a| + |b|) in characters.

    I is the length of the contained string where one contains the other, else the longer of the
    two overlaps of a suffix of one with a prefix of the other.
    """
    if not span or not document:
        return 0.0
    if span in document or document in span:
        shared = min(len(span), len(document))
    else:
        shared = max(_suffix_prefix(span, document), _suffix_prefix(document, span))
    return 2 * shared / (len(span) + len(document))


def _suffix_prefix(first: str, second: str) -> int:
    """Return the longest suffix of `first` that is a prefix of `second` (Knuth-Morris-Pratt)."""
    second = second[: len(first)]
    border = [0] * len(second)
    matched = 0
    for i in range(1, len(second)):
        while matched and second[i] != second[matched]:
            matched = border[matched - 1]
        matched += second[i] == second[matched]
        border[i] = matched
    matched = 0
    for character in first[-len(second) :]:
        if matched == len(second):
            matched = border[matched - 1]
        while matched and character != second[matched]:
            matched = border[matched - 1]
        matched += character == second[matched]
    return matched


def overlap(spans: Sequence[str], documents: Sequence[str], row: Category) -> float:
    """Return how much of the gold documents the spans recall, in [0, 1].

    Each gold document counts by the copy-F1 of its best span over the row's hit threshold, at
    most 1; the overlap is the mean over all of them or over the best k. 1 without gold documents,
    0 with them but no spans.
    """
    if row.gold_mode == "always_1":
        return 1.0
    if row.gold_mode == "used_recall":
        return float(bool(spans))
    if not documents:
        return 1.0
    hits = [
        min(1.0, max((copy_f1(span, document) for span in spans), default=0.0) / row.hit_threshold)
        for document in documents
    ]
    if row.gold_mode == "top_k_gold":
        hits = sorted(hits, reverse=True)[: row.top_k]
    return sum(hits) / len(hits)


def usage(spans: Sequence[str], num_starts: int, num_ends: int, min_span: int) -> float:
    """Return max(0, 1 - errors / sqrt(spans)); 1 without a span.

    errors = |starts - ends| + spans shorter than `min_span` characters.
    """
    if not spans:
        return 1.0
    errors = abs(num_starts - num_ends) + sum(len(span) < min_span for span in spans)
    return max(0.0, 1.0 - errors / math.sqrt(len(spans)))


def density(num_spans: int, num_tokens: int, free_spans: int, limit: float) -> float:
    """Return 1 up to `limit` counted spans per 1,024 tokens, halving every 4 more.

    The first `free_spans` spans are not counted.
    """
    counted = max(0, num_spans - free_spans)
    if not counted:
        return 1.0
    per_1024 = counted * 1024 / max(1, num_tokens)
    return 1.0 if per_1024 <= limit else 2.0 ** -((per_1024 - limit) / 4)
