"""One splitter, and what each rule takes for the end of a sentence."""

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tasks.prompts import sentences
from tasks.prompts.sentences import (
    CITED,
    DOCUMENT,
    ESSAY,
    PASSAGE,
    RULER,
    SUMMARY,
    sentence_ends,
    sentence_ranges,
    split_sentences,
)

RULES = (PASSAGE, DOCUMENT, SUMMARY, ESSAY, RULER, CITED)


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (
            PASSAGE,
            'One is here. Two asks "why?" Three has St. Louis in it. Four',
            ["One is here.", 'Two asks "why?"', "Three has St.", "Louis in it.", "Four"],
        ),
        (
            CITED,
            "Dr. J. Smith sang [1]. It was loud! [2][3] In the U.S. he won 1.5 prizes. [4]",
            # As NLTK splits them: a citation behind the full stop begins the next sentence.
            [
                *("Dr. J. Smith sang [1].", "It was loud!"),
                *("[2][3] In the U.S. he won 1.5 prizes.", "[4]"),
            ],
        ),
        (
            CITED,
            "Spain.[1] Beta is so. Then",
            ["Spain.", "[1] Beta is so.", "Then"],
        ),
        (
            DOCUMENT,
            "A title\n \nOne is\nhere. \u6771\u4eac\u3002\u5927\u962a\uff01",
            ["A title", "One is\nhere.", "\u6771\u4eac\u3002", "\u5927\u962a\uff01"],
        ),
        # A quote that ends in a mark goes on.
        (SUMMARY, '"Who is it?" she asks. He knows.', ['"Who is it?" she asks.', "He knows."]),
        (PASSAGE, '"Who is it?" she asks.', ['"Who is it?"', "she asks."]),
        # Nothing in lower case begins a sentence of an essay; two quotes begin one in RULER's only.
        (ESSAY, "E.g. here. ('A') B. ('C') D", ["E.g. here. ('A') B. ('C') D"]),
        (RULER, "E.g. here. ('A') B. ('C') D", ["E.g. here.", "('A') B.", "('C') D"]),
    ],
)
def test_sentences_end_as_their_rule_says(rule, text, expected):
    assert split_sentences(text, rule) == expected


@given(st.text(alphabet="aA1 .!?\"')([\n\u2018\u3002", max_size=60))
@limits(max_examples=300, deadline=None)
def test_sentences_hold_all_but_the_spaces_between_them(text):
    for rule in RULES:
        ranges = sentence_ranges(text, rule)
        assert "".join("".join(split_sentences(text, rule)).split()) == "".join(text.split())
        assert all(text[low:high] == text[low:high].strip() != "" for low, high in ranges)
        places = [place for ends in ranges for place in ends]
        assert places == sorted(places)
        assert all(0 < end <= len(text) for end in sentence_ends(text, rule))


def test_every_rule_is_tried():
    named = [rule for rule in vars(sentences).values() if isinstance(rule, sentences.SentenceRule)]
    assert len(named) == len(RULES) and all(rule in RULES for rule in named)
