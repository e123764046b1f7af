import pytest

from tasks.scoring import paper
from tasks.scoring.candidates import chosen_letter, majority, several_values, top_votes

OPTIONS = {"A": "A man went home", "B": "the dog", "C": "A cat", "D": "D. Boone"}
VOTES = [("Elm Street", "Street"), ("Harbor Lane", "Lane"), ("Option 7", "7")]
OTHERS = ["Mill Road", "Oak Avenue", "Elm Street North", "Option 12"]


@pytest.mark.parametrize(
    ("answer", "letter", "papers"),
    [
        ("C", "C", "C"),
        ("c", "C", None),
        ("**(C)**.", "C", "C"),
        ("C. A cat", "C", "C"),
        ("The answer is C: A man went home", "C", "C"),
        ("Option C", "C", "C"),
        # The paper reads the C of "Certainly", and the article "A".
        ("Certainly D", "D", "C"),
        ("A close call: C", "C", "A"),
        ("A is right", "A", "A"),
        ("A man went home", None, "A"),
        ("A B C D", None, "A"),
        ("A. A man went home B. the dog C. A cat D. D. Boone", None, "A"),
        ("A or C", None, "A"),
        ("C, not D", "C", "C"),
        ("Option A fits best", "A", "A"),
        ("A fits best", "A", "A"),
        ("Option A seems right", "A", "A"),
        ("A matches the text", "A", "A"),
        ("I pick A over the rest", "A", "A"),
        ("A glass of water: C", "C", "A"),
        ("option d", "D", None),
        ("d)", "D", None),
        ("(d) She was a spy for the enemy.", "D", None),
        ("d. She was a spy for the enemy.", "D", None),
        ("D. A, B and C are not in the text.", "D", "D"),
        ("D \u2014 the others are wrong, because " + "the text says so " * 9, "D", "D"),
        ("Not D", None, "D"),
        ("The answer is not D", None, "D"),
        ("It isn't D", None, "D"),
        ("D is wrong", None, "D"),
        ("D. B. C.", None, "D"),
        ("D. It is B.", None, "D"),
        ("D; C is possible too", None, "D"),
        ("D, maybe C", None, "D"),
        ("", None, None),
        ("E", None, None),
        ("ABC", None, "A"),
        ("word " * 16 + "C", None, "C"),
    ],
)
def test_the_letter_stands_alone_and_is_the_only_one(answer, letter, papers):
    for name in "ABCD":
        assert chosen_letter(answer, name, OPTIONS) == (name == letter)
        assert paper.chosen_letter(answer, name, OPTIONS) == (name == papers)


def test_without_options_the_letters_are_a_to_d():
    assert chosen_letter("D", "D", {}) == 1.0
    assert chosen_letter("D or A?", "D", {}) == 0.0


@pytest.mark.parametrize(
    ("answer", "ours", "papers"),
    [
        ("Elm Street", 1.0, 1.0),
        ("ELM STREET.", 1.0, 1.0),
        ("The winner is Elm Street with 12 votes", 1.0, 1.0),
        ("Street", 1.0, 1.0),
        ("Street wins", 1.0, 1.0),
        # The paper accepts an identifier at the beginning or the end only.
        ("It is Street by far", 1.0, 0.0),
        ("Mill Road", 0.0, 0.0),
        ("Elm Street, Mill Road, Oak Avenue", 0.0, 1.0),
        ("Road Avenue Street", 0.0, 1.0),
        # The longer name is another option.
        ("Elm Street North", 0.0, 1.0),
        ("Elm Streets", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_the_majority_is_the_only_option_named(answer, ours, papers):
    assert majority(answer, VOTES[0], OTHERS) == ours
    assert paper.majority(answer, VOTES[0], OTHERS) == papers


@pytest.mark.parametrize(
    ("answer", "ours", "papers"),
    [
        ("Elm Street, Harbor Lane, Option 7", 1.0, 1.0),
        ("Elm Street\nHarbor Lane", 2 / 3, 2 / 3),
        # Two right, one wrong.
        ("Elm Street, Harbor Lane, Mill Road", 1 / 3, 1 / 3),
        ("Street, Lane, 7", 1.0, 1.0),
        # A number of votes does not count as an option if options are named.
        ("Elm Street 12, Harbor Lane 7", 2 / 3, 2 / 3),
        ("Mill Road", 0.0, 0.0),
        # A longer name does not count as the shorter one: none right, one wrong.
        ("Elm Street North", 0.0, 0.0),
        # Three right, three of four wrong.
        ("Elm Street, Harbor Lane, Option 7, Mill Road, Oak Avenue, Option 12", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_top_votes_count_right_less_wrong(answer, ours, papers):
    assert top_votes(answer, VOTES, OTHERS) == pytest.approx(ours)
    assert paper.top_votes(answer, VOTES, OTHERS) == pytest.approx(papers)


@pytest.mark.parametrize(
    ("answer", "papers"),
    [
        # An identifier keeps its case: the article is no option.
        ("After a count: Proposal B, Proposal C", 2 / 3),
        ("after a count: proposal b, PROPOSAL C", 2 / 3),
        ("A, B, C", 1.0),
        ("a, b, c", 0.0),
        ("A-B-C", 1.0),
    ],
)
def test_the_paper_reads_an_identifier_in_its_own_case(answer, papers):
    options = [(f"Proposal {letter}", letter) for letter in "ABC"]
    assert paper.top_votes(answer, options, []) == pytest.approx(papers)


def test_the_papers_majority_is_a_name_outside_longer_words():
    assert paper.majority("proposal  a!", ("Proposal A", "A"), []) == 1.0
    assert paper.majority("It is Proposal-A by far", ("Proposal A", "A"), []) == 0.0


CODES = [("Pure Beach V9", "V9"), ("Elm Road B2", "B2"), ("Old Mill C7", "C7")]
CODED = ["Calm Harbor C3", "Tall Tree D4", "Red Hill E5"]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Pure Beach", 1.0),
        ("pure beach v9", 1.0),
        ("v9", 1.0),
        ("Pure Beach V9. Elm Road B2 came second.", 1.0),
        ("Pure Beach V9, with 12 votes, ahead of Elm Road B2", 1.0),
        ("Pure Beach V9, B2, C3", 0.0),
        ("Pure Beach V9; Elm Road", 0.0),
        ("V9 or Elm Road", 0.0),
        ("Elm Road B2. Pure Beach V9 came second.", 0.0),
        ("Pure Beach V9 or maybe Elm Road B2. It is one of them.", 0.0),
        ("Beach", 0.0),
    ],
)
def test_other_options_count_however_they_are_named(answer, score):
    others = [*(aliases[0] for aliases in CODES[1:]), *CODED]
    assert majority(answer, CODES[0], others) == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Pure Beach, Elm Road, Old Mill", 1.0),
        ("Pure Beach V9, B2, C7", 1.0),
        ("Pure Beach V9; Elm Road B2; D4", 1 / 3),
        ("Pure Beach V9; Elm Road B2; D4; C3", 0.0),
        ("V9 B2 C7 Tall Tree", 2 / 3),
    ],
)
def test_top_votes_count_short_forms_beside_names(answer, score):
    assert top_votes(answer, CODES, CODED) == pytest.approx(score)


def test_a_beginning_that_two_options_share_names_neither():
    assert majority("Pure Beach", CODES[0], ["Pure Beach B2"]) == 0.0


def test_listing_few_wrong_options_with_all_right_ones_scores_by_the_papers_rule_only():
    answer = "Elm Street, Harbor Lane, Option 7, Mill Road"
    assert top_votes(answer, VOTES, OTHERS[:1]) == 0.0
    assert paper.top_votes(answer, VOTES, OTHERS[:1]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "ours", "papers"),
    [
        ("1234567 7654321", 1.0, 1.0),
        ("calm-fox: 1234567, 7654321.", 1.0, 1.0),
        ("1234567", 0.5, 0.5),
        # Two hits, one miss of three.
        ("1234567 7654321 5555555", 0.5, 0.5),
        ("1234567 5555555", 0.0, 0.0),
        # Two of three wrong values make it a listing.
        ("1234567 7654321 5555555 6666666", 0.0, 0.0),
        ("91234567 7654321", 0.5, 1.0),
        ("word " * 40 + "1234567 7654321", 0.0, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_several_values_count_hits_less_wrong_ones(answer, ours, papers):
    parts, wrong = [("1234567",), ("7654321",)], ["5555555", "6666666", "8888888"]
    assert several_values(answer, parts, wrong) == pytest.approx(ours)
    assert paper.several_values(answer, parts, wrong) == pytest.approx(papers)


def test_listing_the_few_wrong_values_too_scores_by_the_papers_rule_only():
    parts, wrong = [("11",), ("22",), ("33",), ("44",)], ["55"]
    assert several_values("11 22 33 44 55", parts, wrong) == 0.0
    assert paper.several_values("11 22 33 44 55", parts, wrong) == 0.75


def test_values_keep_their_case_and_a_part_counts_once():
    assert several_values("AB1 ab1", [("ab1", "AB1")], []) == 1.0
    assert several_values("AB1", [("ab1",)], []) == 0.0
