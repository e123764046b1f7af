"""The retrieval reward: for recalling the right passages, well formed and not too often.

R_ret = overlap * usage * density (arXiv 2604.09494, section 4.3 and appendix D.3).
"""

import math
from collections.abc import Sequence

from tasks.scoring.answers import stands_alone
from tasks.scoring.reward import RewardRow

# Overlaps of at least this many characters are searched for by their first characters, shorter ones
# in the tail.
ANCHOR = 8
# The number of places tried before the search that is linear in the worst case takes over.
MAX_PLACES = 16


def copy_f1(span: str, document: str) -> float:
    """Return 2 I / (|a| + |b|) in characters.

    If one string contains the other, I is the length of the contained one. Otherwise it is the
    longer of the two overlaps of a suffix of one string with a prefix of the other.
    """
    if not span or not document:
        return 0.0
    if span in document or document in span:
        shared = min(len(span), len(document))
    else:
        shared = max(_suffix_prefix(span, document), _suffix_prefix(document, span))
    return 2 * shared / (len(span) + len(document))


def _suffix_prefix(first: str, second: str) -> int:
    """Return the longest suffix of `first` that is a prefix of `second`."""
    size = len(first)
    place, anchor, tries = max(0, size - len(second)), second[:ANCHOR], 0
    if len(second) >= ANCHOR:
        while (place := first.find(anchor, place)) >= 0:
            if second.startswith(first[place:]):
                return size - place
            place, tries = place + 1, tries + 1
            if tries > MAX_PLACES:
                return _suffix_prefix_linear(first, second)
    tail = first[1 - ANCHOR :][-len(second) :]
    place = -1
    while (place := tail.find(second[0], place + 1)) >= 0:
        if second.startswith(tail[place:]):
            return len(tail) - place
    return 0


def _suffix_prefix_linear(first: str, second: str) -> int:
    """Return the same, in linear time for all texts (Knuth-Morris-Pratt)."""
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


def overlap(
    spans: Sequence[str], documents: Sequence[str], row: RewardRow, labels: Sequence[str] = ()
) -> float:
    """Return how much of the gold documents the spans recall, in [0, 1].

    A gold document counts the copy-F1 of its best span, divided by the row's hit threshold, at
    most 1. If the best span lacks the document's label, it counts half of that. The overlap is the
    mean over all gold documents or over the best k. It is 1 without gold documents, and 0 with gold
    documents but without spans.

    Args:
      labels: the label in each gold document; () or "" for none.
    """
    if row.gold_mode == "always_1":
        return 1.0
    if row.gold_mode == "used_recall":
        return float(bool(spans))
    if not documents:
        return 1.0
    spans = list(dict.fromkeys(spans))
    hits = [
        _hit(spans, document, label, row.hit_threshold)
        for document, label in zip(documents, labels or [""] * len(documents), strict=True)
    ]
    if row.gold_mode == "top_k_gold":
        hits = sorted(hits, reverse=True)[: row.top_k]
    return sum(hits) / len(hits)


def _hit(spans: Sequence[str], document: str, label: str, threshold: float) -> float:
    """Return how far a document is recalled; of equally good spans, one with the label counts."""
    best, labelled = 0.0, False
    for span in filter(None, spans):
        size, other = len(span), len(document)
        # No pair of these lengths scores higher.
        if 2 * min(size, other) / (size + other) < best:
            continue
        f1 = copy_f1(span, document)
        if f1 > best:
            best, labelled = f1, _holds(span, label)
        elif f1 == best:
            labelled = labelled or _holds(span, label)
    return min(1.0, best / threshold) * (1.0 if labelled else 0.5)


def _holds(span: str, label: str) -> bool:
    """Return whether a span holds a label; "label: 77" does not hold "label: 7"."""
    return not label or stands_alone(label, span)


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
