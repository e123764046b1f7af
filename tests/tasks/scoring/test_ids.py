import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scoring import paper
from tasks.scoring.ids import answer_coverage, citation_f1, cited_ids, ndcg, ranked_ids, valid_share


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        ("3 > 1 > 2", ["3", "1", "2"]),
        ("ID3 > ID: 1 > [ID: 2]", ["3", "1", "2"]),
        ("[Doc 0012]>Passage 7: > (Document 5)", ["0012", "7", "5"]),
        # A repeated id keeps its first place and takes no second one.
        ("3 > 1 > 3 > 2", ["3", "1", "2"]),
        ("Here is my ranking:\n3 > 1\nThe first is best.", ["3", "1"]),
        ("3 > 1.", ["3", "1"]),
        ("My ranking: 3 > 1", ["3", "1"]),
        ("Ranking:\nID: 3 > ID: 1", ["3", "1"]),
        ("\u201c0003\u201d > \u201c0001\u201d", ["0003", "0001"]),
        ("\u00ab3\u00bb > '1'", ["3", "1"]),
        ("> > 4", ["4"]),
        ("", []),
        (">>>", []),
        ("3, 1, 2", ["3, 1, 2"]),
    ],
)
def test_a_ranking_is_read_with_all_its_marks(answer, ids):
    assert ranked_ids(answer) == ids


def test_ndcg_by_hand():
    grades = {"1": 2, "2": 0, "3": 1}
    # Ideal 2 + 1 / log2(3) = 2.63093. Found: 1 first, 0 second, 2 third by log2(4): 1 + 1 = 2.
    assert ndcg(["3", "2", "1"], grades) == pytest.approx(2 / 2.6309298, abs=1e-6)
    # Exponential gain would give 3 and 0.63093 for a reversed pair.
    assert ndcg(["1", "3"], grades) == 1.0
    # An unknown id takes the first place: 2 / log2(3) + 1 / 2 = 1.76186.
    assert ndcg(["9", "1", "3"], grades) == pytest.approx(1.7618595 / 2.6309298, abs=1e-6)
    assert ndcg([], grades) == 0.0
    assert ndcg(["1"], {"1": 0}) == 0.0
    assert ndcg(["1"], {}) == 0.0


def test_ndcg_stops_at_the_tenth_place():
    grades = {str(n): int(n == 0) for n in range(20)}
    others = [str(n) for n in range(1, 20)]
    assert ndcg([*others[:9], "0"], grades) == pytest.approx(1 / math.log2(11))
    assert ndcg([*others[:10], "0"], grades) == 0.0


def ndcg_written_out(ranking, grades):
    """DCG@10 / IDCG@10, place by place."""
    gained = ideal = 0.0
    best = sorted(grades.values())[::-1]
    for i in range(10):
        discount = math.log(2) / math.log(i + 2)
        gained += discount * (grades.get(ranking[i], 0) if i < len(ranking) else 0)
        ideal += discount * (best[i] if i < len(best) else 0)
    return gained / ideal if ideal else 0.0


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([str(n) for n in range(16)]), unique=True),
    st.dictionaries(st.sampled_from([str(n) for n in range(14)]), st.integers(0, 3)),
)
def test_ndcg_equals_the_formula_written_out(ranking, grades):
    value = ndcg(ranking, grades)
    assert value == pytest.approx(ndcg_written_out(ranking, grades), abs=1e-12)
    assert 0.0 <= value <= 1.0 + 1e-12


def test_ids_may_lack_their_leading_zeros_and_count_once():
    grades = {"0003": 2, "0001": 1, "0000": 0}
    assert ndcg(["3", "1"], grades) == 1.0
    # The first id again takes no place: 2 + 1 / log2(3) of the same.
    assert ndcg(["3", "0003", "1"], grades) == 1.0
    assert valid_share(["3", "0003", "0"], grades) == pytest.approx(2 / 3)
    # Without its zeros the id could be either of two.
    assert ndcg(["3"], {"03": 1, "003": 0}) == 0.0


def test_the_share_of_valid_ids_counts_each_once():
    grades = {"[ID: 1]": 1, "2": 0, "3": 0, "4": 0}
    assert valid_share(["1", "2", "9"], grades) == 0.5
    assert valid_share([], {}) == 0.0


@pytest.mark.parametrize(
    ("text", "ours", "papers"),
    [
        ("Paris [1], Rome [2][3]", ["1", "2", "3"], ["1", "2", "3"]),
        ("[1] again [1]", ["1"], ["1"]),
        ("Paris [1, 2]", ["1", "2"], []),
        ("Paris [Document 3], Rome [doc: 4]", ["3", "4"], []),
        ("Paris (1) [a] [] [ ]", [], []),
    ],
)
def test_citations_are_read_once_each(text, ours, papers):
    assert cited_ids(text) == ours
    assert paper.cited_ids(text) == papers


GRADES = {str(n): int(n <= 3) for n in range(1, 21)}


@pytest.mark.parametrize(
    ("answer", "spans", "f1"),
    [
        # Three of three, all shown: precision and recall 1.
        ("a [1] b [2] c [3]", ["[1](T) a", "x [2] [3]"], 1.0),
        # None shown: weight 1.5, recall 1/2, precision 1.5 / 1.5.
        ("a [1] b [2] c [3]", [], 2 / 3),
        # One shown: weight 2, recall 2/3; precision 2/2.
        ("a [1] b [2] c [3]", ["[1]"], 0.8),
        # One right and shown, one wrong and not: recall 1/3, precision 1 / 1.5.
        ("a [1] b [9]", ["[1]"], 2 * (1 / 3) * (2 / 3) / 1),
        # Both shown: precision 1/2.
        ("a [1] b [9]", ["[1]", "[9]"], 2 * (1 / 3) * (1 / 2) / (5 / 6)),
        # An unknown id counts as a wrong one.
        ("a [1] b [99]", ["[1]"], 4 / 9),
        ("a [9]", ["[9]"], 0.0),
        ("a", ["[1]"], 0.0),
        ("", [], 0.0),
    ],
)
def test_citation_f1_by_hand(answer, spans, f1):
    assert citation_f1(answer, spans, GRADES) == pytest.approx(f1)
    assert paper.citation_f1(answer, spans, GRADES) == pytest.approx(f1)


def test_five_backed_citations_are_full_recall():
    grades = {str(n): 1 for n in range(1, 9)}
    five = " ".join(f"[{n}]" for n in range(1, 6))
    assert citation_f1(five, [f"[{n}]" for n in range(1, 6)], grades) == 1.0
    # Eight unbacked ones weigh 4 of 5.
    eight = " ".join(f"[{n}]" for n in range(1, 9))
    assert citation_f1(eight, [], grades) == pytest.approx(2 * 0.8 / 1.8)


def test_citing_every_document_scores_by_the_papers_rule_only():
    grades = {str(n): int(n <= 7) for n in range(1, 11)}
    everything = " ".join(f"[{n}]" for n in range(1, 11))
    assert citation_f1(everything, [], grades) == 0.0
    # Recall 3.5 of 5, precision 7 of 10: as good as honest work.
    assert paper.citation_f1(everything, [], grades) == pytest.approx(0.7)
    assert citation_f1("[1][2][3][4][5][8]", [], grades) > 0.5


def test_a_span_of_the_whole_context_backs_no_citation():
    context = " ".join(f"Document [{n}](Title: t): text" for n in range(1, 21))
    answer = "a [1] b [2] c [3]"
    assert citation_f1(answer, [context], GRADES) == pytest.approx(2 / 3)
    assert paper.citation_f1(answer, [context], GRADES) == 1.0


PARTS = [("Paris", "Lutetia"), ("New York",), ("The",)]


@pytest.mark.parametrize(
    ("answer", "ours", "papers"),
    [
        # Normalising leaves nothing of "The", which is never given.
        ("Paris [1], New York [2]", 2 / 3, 2 / 3),
        ("lutetia", 1 / 3, 1 / 3),
        ("Paris, Lutetia", 1 / 3, 1 / 3),
        ("Parisian", 0.0, 1 / 3),
        ("New [1] York", 1 / 3, 1 / 3),
        ("", 0.0, 0.0),
        ("word " * 80 + "Paris", 0.0, 1 / 3),
    ],
)
def test_coverage_by_hand(answer, ours, papers):
    assert answer_coverage(answer, PARTS) == pytest.approx(ours)
    assert paper.answer_coverage(answer, PARTS) == pytest.approx(papers)


@pytest.mark.parametrize(
    ("answer", "name", "given"),
    [
        ("Sao Paulo [1]", "S\u00e3o Paulo", 1.0),
        ("Baden Baden", "Baden-Baden", 1.0),
        ("AT and T", "AT&T", 1.0),
        # Names of up to four letters are words of the answer; longer ones may be parts of words.
        ("Romania", "Roma", 0.0),
        ("Roma, Lazio", "Roma", 1.0),
        ("Parisian", "Paris", 1.0),
        ("the Xs of Lowe", "Sof L", 0.0),
    ],
)
def test_the_papers_coverage_compares_names_in_qamparis_form(answer, name, given):
    assert paper.answer_coverage(answer, [[name]]) == given


def test_five_of_many_answers_cover_enough():
    parts = [(f"name{n}",) for n in range(9)]
    assert answer_coverage(" ".join(f"name{n}" for n in range(5)), parts) == 1.0
    assert answer_coverage(" ".join(f"name{n}" for n in range(4)), parts) == 0.8
