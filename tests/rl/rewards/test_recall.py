import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl.rewards.recall import copy_f1, density, overlap, usage
from tasks.scoring.reward import RewardRow


def row(gold_mode="standard", hit_threshold=0.9, top_k=0):
    return RewardRow(
        hit_threshold=hit_threshold,
        min_span=5,
        gold_mode=gold_mode,
        free_spans=2,
        top_k=top_k,
    )


def brute_force_f1(a, b):
    """The definition, tried for every length."""
    if a in b or b in a:
        shared = min(len(a), len(b))
    else:
        lengths = range(min(len(a), len(b)) + 1)
        shared = max(
            max(n for n in lengths if a.endswith(b[:n])),
            max(n for n in lengths if b.endswith(a[:n])),
        )
    return 2 * shared / (len(a) + len(b))


@pytest.mark.parametrize(
    ("span", "document", "f1"),
    [
        ("abcdef", "abcdef", 1.0),
        # Contained: 2 * 4 / 10. Only overlaps of suffix and prefix would give 0.
        ("cdef", "abcdefgh"[1:7], 8 / 10),
        ("abcdefgh", "cdef", 8 / 12),
        # The span's end is the document's beginning: "def".
        ("abcdef", "defghi", 0.5),
        # The span's beginning is the document's end.
        ("defghi", "abcdef", 0.5),
        # Both overlap, by 1 and by 3; the longer one counts.
        ("cdxxabc", "abcyycd", 6 / 14),
        # A common inner part is neither.
        ("xabcx", "yabcy", 0.0),
        # KMP must fall back: "aab" ends "aaab".
        ("xaaab", "aabx", 6 / 9),
        ("", "abc", 0.0),
        ("abc", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_copy_f1_by_hand(span, document, f1):
    assert copy_f1(span, document) == pytest.approx(f1)


short = st.text("ab", min_size=1, max_size=9)


@settings(deadline=None)
@given(short, short)
@example("abab", "baba")
@example("aab", "abaa")
def test_copy_f1_equals_brute_force(a, b):
    assert copy_f1(a, b) == brute_force_f1(a, b)
    assert copy_f1(b, a) == copy_f1(a, b)


@settings(deadline=None)
@given(st.text("abc", max_size=12), st.text("ab", min_size=5, max_size=9), st.text("abc"))
def test_copy_f1_equals_brute_force_on_strings_that_share_an_end(head, joint, tail):
    assert copy_f1(head + joint, joint + tail) == brute_force_f1(head + joint, joint + tail)


@settings(deadline=None)
@given(st.text("ab", max_size=60), st.text("ab", max_size=60))
@example("a" * 40 + "b" + "a" * 20, "a" * 20 + "bb" + "a" * 40)
@example("abababab" * 5 + "c", "abababab" * 4 + "d")
@example("x" * 30 + "abcdefgh", "abcdefgh" + "y" * 30)
@example("x" * 30 + "abcdefg", "abcdefg" + "y" * 30)
@example("abcdefgh-abcdefgh", "abcdefghij")
def test_copy_f1_equals_brute_force_on_strings_longer_than_the_anchor(a, b):
    if a and b:
        assert copy_f1(a, b) == brute_force_f1(a, b)


def test_copy_f1_of_long_strings_is_linear():
    # Quadratic work would be 10^10 steps.
    size = 50_000
    assert copy_f1("a" * size + "c", "b" + "a" * size) == pytest.approx(size / (size + 1))
    # Many places hold the first characters, but none holds the rest.
    start = time.process_time()
    assert copy_f1("ab" * 4 * size + "c", "ab" * 4 * size + "d") == 0.0
    assert time.process_time() - start < 1.5


def test_each_document_counts_by_its_best_span_over_the_threshold():
    documents = ["Key 1:\nvalue", "0123456789"]
    # Best spans: an exact copy, 1; and "01234", F1 = 10 / 15, over 0.9. "012" would give 0.51.
    spans = ["012", "Key 1:\nvalue", "01234"]
    assert overlap(spans, documents, row()) == pytest.approx((1 + 2 / 3 / 0.9) / 2)


def test_a_hit_past_the_threshold_is_one_and_no_more():
    # F1 = 18 / 19, over 0.9 more than 1.
    assert overlap(["012345678"], ["0123456789"], row()) == 1.0


def test_overlap_does_not_depend_on_the_order_of_spans_and_documents():
    spans, documents = ["01234", "xyz", "Key 1"], ["Key 1:\nvalue", "0123456789"]
    assert overlap(spans, documents, row()) == overlap(spans[::-1], documents[::-1], row())


def test_adding_a_span_never_lowers_the_overlap():
    assert overlap(["01234", "zzz"], ["0123456789"], row()) == overlap(
        ["01234"], ["0123456789"], row()
    )


@pytest.mark.parametrize(
    ("spans", "documents", "value"),
    [([], ["0123456789"], 0.0), ([], [], 1.0), (["anything"], [], 1.0)],
)
def test_overlap_without_spans_or_documents(spans, documents, value):
    assert overlap(spans, documents, row()) == value
    assert overlap(spans, documents, row("top_k_gold", top_k=1)) == value


def test_top_k_gold_takes_the_best_k():
    documents, spans = ["abcdef", "uvwxyz", "012345"], ["abcdef", "012345"]
    assert overlap(spans, documents, row("top_k_gold", top_k=2)) == 1.0
    assert overlap(spans, documents, row("top_k_gold", top_k=9)) == pytest.approx(2 / 3)


LABELLED = ["send money\nlabel: 7", "wire it\nlabel: 7"]


@pytest.mark.parametrize(
    ("spans", "value"),
    [
        ([LABELLED[0]], 1.0),
        # 10 of 19 characters: F1 = 20 / 29, and half of that without the label.
        (["send money"], 20 / 29 / 0.95 / 2),
        # Past the threshold, but the label is cut: "label: " is not "label: 7".
        ([LABELLED[0][:-1]], 0.5),
        # Label 77 is another one; contained, 2 * 19 / 39.
        ([LABELLED[0] + "7"], 0.5),
        # The better span decides, with or without the label.
        (["send money\nlabel:", "label: 7"], 34 / 36 / 0.95 / 2),
        # Among two equally good ones, the one with the label counts.
        (["send mon", "label: 7"], 16 / 27 / 0.95),
    ],
)
def test_a_document_whose_best_span_lacks_its_label_counts_half(spans, value):
    only = overlap(spans, LABELLED[:1], row(hit_threshold=0.95), ["label: 7"])
    assert only == pytest.approx(value)
    reverse = overlap(spans[::-1], LABELLED[:1], row(hit_threshold=0.95), ["label: 7"])
    assert reverse == pytest.approx(value)


def test_labels_belong_to_their_documents_and_may_be_missing():
    documents, spans = ["[1] abcdef", "[2] uvwxyz"], ["[1] abcdef", "uvwxyz"]
    # 6 of 10 characters: F1 = 12 / 16, over 0.7 more than 1; half without its label.
    assert overlap(spans, documents, row(hit_threshold=0.7), ["[1]", "[2]"]) == 0.75
    assert overlap(spans, documents, row(hit_threshold=0.7), ["[1]", ""]) == 1.0
    assert overlap(spans, documents, row(hit_threshold=0.7)) == 1.0
    best = row("top_k_gold", hit_threshold=0.7, top_k=1)
    assert overlap(spans, documents, best, ["[1]", "[2]"]) == 1.0


def test_the_modes_without_documents():
    assert overlap([], ["abcdef"], row("always_1")) == 1.0
    assert overlap(["x"], [], row("used_recall")) == 1.0
    assert overlap([], [], row("used_recall")) == 0.0


@pytest.mark.parametrize(
    ("spans", "starts", "ends", "value"),
    [
        ((), 0, 0, 1.0),
        ((), 0, 3, 1.0),
        (("12345",), 1, 1, 1.0),
        (("1234",), 1, 1, 0.0),
        # One error in four spans, by the root: 1/2. By their number it would be 3/4.
        (("12345", "12345", "12345", "1234"), 4, 4, 0.5),
        (("12345", "12345", "12345", "12345"), 4, 3, 0.5),
        (("12345", "12345", "12345", "12345"), 4, 5, 0.5),
        (("12345", "12345", "12345", ""), 4, 3, 0.0),
        (("1", "2", "3"), 3, 0, 0.0),
    ],
)
def test_usage_by_hand(spans, starts, ends, value):
    assert usage(spans, starts, ends, 5) == pytest.approx(value)


@pytest.mark.parametrize(
    ("num_spans", "num_tokens", "value"),
    [
        (0, 0, 1.0),
        # The first two are free, however short the response.
        (2, 1, 1.0),
        # Four counted in 1,024 tokens are at the limit; counting the free ones gives 0.71.
        (6, 1024, 1.0),
        (10, 1024, 0.5),
        (14, 1024, 0.25),
        # Three counted in 512 tokens are 6 per 1,024: two past the limit.
        (5, 512, 2**-0.5),
        (10, 2048, 1.0),
    ],
)
def test_density_by_hand(num_spans, num_tokens, value):
    assert density(num_spans, num_tokens, 2, 4.0) == pytest.approx(value)


def test_evaluation_allows_six_spans():
    assert density(8, 1024, 2, 6.0) == 1.0
    assert density(12, 1024, 2, 6.0) == pytest.approx(0.5)


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 6000))
def test_density_is_finite_and_falls_with_every_span(num_spans, num_tokens):
    value = density(num_spans, num_tokens, 2, 4.0)
    assert 0.0 <= value <= 1.0
    assert math.isfinite(value)
    assert density(num_spans + 1, num_tokens, 2, 4.0) <= value
