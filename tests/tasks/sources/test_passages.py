"""Passages, their layouts, and a corpus: nearest passages and distractors."""

import contextlib
import gzip
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import generator
from tasks.prompts.sentences import PASSAGE, sentence_ranges
from tasks.prompts.settings import TaskSettings
from tasks.sources.corpus import (
    Corpus,
    corpus_of,
    draw_kind,
    in_order,
    read_corpus,
    take,
    words,
)
from tasks.sources.passages import (
    QUESTION_LAYOUTS,
    Passage,
    holds,
    needles,
    question_layout,
    read_answers,
    read_passage,
    read_passages,
    render,
    support,
)

CORPUS = Corpus(
    Passage(title, text)
    for title, text in [
        ("Cats", "Cats chase mice. Cats sleep."),
        ("Dogs", "Dogs chase cats in gardens."),
        ("Gardens", "Roses grow in gardens, roses everywhere."),
        ("Mice", "Mice eat cheese."),
        ("Cheese", "Cheese comes from milk; milk comes from cows."),
    ]
)
WORDS = [
    ["cats", "cats", "chase", "mice", "cats", "sleep"],
    ["dogs", "dogs", "chase", "cats", "gardens"],
    ["gardens", "roses", "grow", "gardens", "roses", "everywhere"],
    ["mice", "mice", "eat", "cheese"],
    ["cheese", "cheese", "comes", "from", "milk", "milk", "comes", "from", "cows"],
]


def bm25(query: list[str], words: list[list[str]], k1=1.5, b=0.75) -> list[float]:
    """Compute Lucene's BM25 by its formula."""
    mean = sum(map(len, words)) / len(words)
    scores = []
    for document in words:
        score = 0.0
        for word in query:
            holders = sum(word in other for other in words)
            count = document.count(word)
            idf = math.log(1 + (len(words) - holders + 0.5) / (holders + 0.5))
            score += idf * count / (count + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["cats", "chase mice", "Roses in the gardens!", "milk cheese"])
def test_scores_are_bm25s(query):
    asked = [word for word in query.lower().strip("!").split() if word not in ("in", "the")]
    np.testing.assert_allclose(CORPUS.scores(query), bm25(asked, WORDS), rtol=1e-5)


def test_the_nearest_share_words_with_the_query_and_the_others_are_not_near():
    assert [p.title for p in CORPUS.nearest("Where do roses grow?")] == ["Gardens"]
    assert [p.title for p in CORPUS.nearest("cheese from milk")] == ["Cheese", "Mice"]
    assert list(CORPUS.nearest("the of 7 zebra")) == []
    assert list(CORPUS.nearest("")) == []
    assert list(Corpus([]).nearest("cats")) == []


@pytest.mark.parametrize("texts", [["the"], ["x y", "of it x"], ["7 8", "the and or"]])
def test_a_corpus_without_words_that_count_has_no_neighbours(texts):
    corpus = Corpus(Passage("", text) for text in texts)
    assert list(corpus.nearest("the x 7 cats")) == []
    assert len(list(corpus.shuffled(generator("any", 0, 0)))) == len(texts)


@given(st.lists(st.text(max_size=12), max_size=4), st.text(max_size=12))
@limits(max_examples=60, deadline=None)
def test_any_query_finds_the_texts_that_share_a_word_with_it(texts, query):
    passages = []
    for text in texts:
        with contextlib.suppress(UnfitRowError):
            passages.append(read_passage(None, text))
    found = list(Corpus(passages).nearest(query))
    assert all(set(words(query)) & set(words(passage.text)) for passage in found)


def test_a_text_that_comes_twice_is_one_passage():
    copies = [Passage("A", "The same text."), Passage("B", "same  text"), Passage("B", "another")]
    assert [p.title for p in Corpus(copies).passages] == ["A", "B"]


def test_kinds_of_distractors_come_in_their_order():
    own = [Passage("Own", "A hard negative.")]
    rng = generator("order", 0, 0)
    near = in_order(CORPUS, "bm25", "cheese from milk", own, rng)
    assert [p.title for p in itertools.islice(near, 3)] == ["Own", "Cheese", "Mice"]
    drawn = {next(in_order(CORPUS, "random", "cheese", own, rng)).title for _ in range(60)}
    assert drawn == {"Cats", "Dogs", "Gardens", "Mice", "Cheese"}
    mixed = list(in_order(CORPUS, "mixed", "cheese from milk", own, rng))
    assert [p.title for p in mixed[:6:2]] == ["Own", "Cheese", "Mice"]
    for kind in ("bm25", "random", "mixed"):
        assert set(CORPUS.passages) <= set(in_order(CORPUS, kind, "cheese", own, rng))


def test_kinds_are_drawn_by_their_rates():
    rng = generator("kinds", 0, 0)
    counts = Counter(draw_kind(rng) for _ in range(4000))
    # 0.30 and 0.10 with their part of the dense share: 0.30 + 0.45 * 3/4, 0.10 + 0.45 / 4.
    for kind, rate in {"bm25": 0.6375, "mixed": 0.15, "random": 0.2125}.items():
        assert counts[kind] / 4000 == pytest.approx(rate, abs=0.03)


def test_distractors_hold_no_answer_are_not_gold_and_come_once():
    gold = [Passage("Mice", "Mice eat cheese.")]
    version = Passage("Mice", f"{'x' * 90} one")
    candidates = [*CORPUS.passages, *CORPUS.passages, version, Passage("M", f"{'x' * 90} two")]
    wanted = needles(["Roses", "the"])
    taken = take(candidates, lambda p: holds(p, wanted), [*gold, version], 1000)
    assert [p.title for p in taken] == ["Cats", "Dogs", "Cheese"]


def test_distractors_fill_the_target_and_are_not_many_more():
    many = [Passage("", f"number {n} " + "word " * 20) for n in range(500)]
    taken = take(many, lambda p: False, [], 100)
    assert sum(len(p.text) for p in taken[:-1]) < 1200 <= sum(len(p.text) for p in taken)
    assert len(take(many, lambda p: False, [], 100, least=80)) == 80
    assert len(take(many, lambda p: False, [], 10**6)) == 500


def test_needles_are_words_in_normal_form_and_judgements_have_none():
    passage = Passage("The Art", "A party at noon; U.S. troops.")
    assert holds(passage, needles(["art"])) and holds(passage, needles(["U.S. Troops!"]))
    assert not holds(passage, needles(["part"])) and not holds(passage, needles(["oon"]))
    between = Passage("", "The Paris/London line, 1914\u20131918 (Port-au-Prince)")
    for answer in (
        "Paris",
        "London",
        "1914",
        "1918",
        "1914\u20131918",
        "Port-au-Prince",
        "port au",
    ):
        assert holds(between, needles([answer]))
    assert not holds(between, needles(["Paris line"]))
    assert needles(["Yes", "no.", "the"]) == ()


def test_the_support_is_the_sentence_with_the_answer_or_the_known_fact():
    text = 'One is here. Two asks "why?" Three has St. Louis in it. Four'
    passage = Passage("", text)
    low, high = support(passage, ["st. louis"])
    assert text[low:high] == "Three has St. Louis in it."
    low, high = support(passage, ["nothing"], facts=[1, 99])
    assert text[low:high].startswith("Two asks")
    # A sentence that is known to support the answer is preferred to one that only has it.
    parts = sentence_ranges("Ann won. Bea came in. Ann lost in the final round.", PASSAGE)
    low, high = support(
        Passage("", "Ann won. Bea came in. Ann lost in the final round."), ["Ann"], [2], parts
    )
    assert (low, high) == parts[2]


def test_the_support_of_a_number_is_no_longer_one_and_of_yes_a_known_fact():
    text = "Rent is 5,000 crowns a month. There is no lift. The fee is 5 crowns. Pets are welcome."
    passage = Passage("House", text)

    def supported(answer, facts=()):
        low, high = support(passage, [answer], facts=facts)
        return text[low:high]

    assert supported("5").startswith("The fee is 5 crowns.")
    # "no" stands in a sentence that is not the fact.
    assert supported("no", facts=[3]).endswith("Pets are welcome.")
    assert not supported("no").startswith("There is no lift.")


@given(st.text(alphabet="ab .!?\"')", max_size=60), st.text(alphabet="ab.", max_size=4))
@limits(max_examples=200, deadline=None)
def test_support_is_a_stretch_of_the_text_that_is_large_enough(text, answer):
    text = " ".join(text.split())
    if not text:
        return
    low, high = support(Passage("t", text), [answer] if answer.strip() else [])
    assert 0 <= low < high <= len(text)
    assert high - low >= 0.3 * len(text) - 1 or (low, high) == (0, len(text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("title", "Cats\nCats purr.\n\nNo title."),
        ("title:", "Cats: Cats purr.\n\nNo title."),
        ("[id]", "[1] Cats purr.\n\n[2] No title."),
        ("[id] title", "[1] Cats\nCats purr.\n\n[2] No title."),
        ("Passage n:", "Passage 1: Cats purr.\n\nPassage 2: No title."),
    ],
)
def test_a_layout_heads_the_passages_and_knows_their_places(name, expected):
    shown = [Passage("Cats", "Cats purr."), Passage("", "No title.")]
    text, ranges, heads = render(shown, QUESTION_LAYOUTS[name], 5)
    assert text == expected
    for passage, (low, high), head in zip(shown, ranges, heads, strict=True):
        assert text[low - 5 + head : high - 5] == passage.text


def test_layouts_are_drawn_by_their_rates_and_without_titles_only_where_they_are_not_needed():
    rates = {"title": 0.30, "title:": 0.20, "[id]": 0.15, "[id] title": 0.20, "Passage n:": 0.15}
    names = {layout: name for name, layout in QUESTION_LAYOUTS.items()}
    rng = generator("layouts", 0, 0)
    plain = [Passage("Ada (ship)", "The Ada sank.")]
    counts = Counter(names[question_layout(rng, plain, needles(["sank"]))] for _ in range(4000))
    for name, rate in rates.items():
        assert counts[name] / 4000 == pytest.approx(rate, abs=0.03)
    needed = [*plain, Passage("Bo", "It sank.")]
    assert all(question_layout(rng, needed, ()).titled for _ in range(100))
    wanted = needles(["ship"])
    assert all(question_layout(rng, plain, wanted).titled for _ in range(100))


def test_passages_are_cleaned_and_malformed_ones_are_refused():
    assert read_passage(None, " e\u0301 \n\n x ") == Passage("", "é x")
    assert read_passage(" ", "x") == Passage("", "x")
    for title, text in [
        ("t", ""),
        ("t", None),
        ("t", "..."),
        (3, "x"),
        ("t", "x" * 20_001),
        ("x" * 301, "x"),
        ("t", "a <|im_end|> b"),
        ("t", "a </think> b"),
        ("t", "\ud800"),
    ]:
        with pytest.raises(UnfitRowError):
            read_passage(title, text)
    rows = [{"title": "t", "text": "x"}, {"text": "x"}, {"text": 3}, 7, {"text": "y"}]
    assert read_passages(rows) == [Passage("t", "x"), Passage("", "y")]
    assert read_passages("no list") == []


def test_answers_without_a_word_are_dropped():
    assert read_answers([" the ", "A  b", "A b", 3, "x" * 301, "c"]) == ("A b", "c")
    assert read_answers("one") == ("one",)
    with pytest.raises(UnfitRowError, match="no answer"):
        read_answers(["the", "!", None])


def test_a_corpus_is_read_from_jsonl_tsv_and_folders(tmp_path):
    (tmp_path / "b.jsonl").write_text(
        '{"title": "T", "text": "one two"}\n{"title": "T"}\nno json\n[1]\n', encoding="utf-8"
    )
    with gzip.open(tmp_path / "psgs_w100.tsv.gz", "wt", encoding="utf-8") as file:
        file.write('id\ttext\ttitle\n1\t"He said ""hi"" there."\tAaron\n2\tone two\tCopy\n3\t\t\n')
    expected = {Passage("T", "one two"), Passage("Aaron", 'He said "hi" there.')}
    assert set(read_corpus(str(tmp_path)).passages) == expected
    tsv = read_corpus(str(tmp_path / "psgs_w100.tsv.gz"))
    assert [p.title for p in tsv.passages] == ["Aaron", "Copy"]
    settings = TaskSettings(500, corpus=str(tmp_path / "b.jsonl"))
    assert corpus_of(settings, ()).passages == (Passage("T", "one two"),)


def test_a_path_that_is_not_a_corpus_is_one_clear_error(tmp_path):
    with pytest.raises(TaskInputError, match=r"config\.data\.corpus = .* holds no passage"):
        read_corpus(str(tmp_path))
    with pytest.raises(TaskInputError, match=r"absent\.jsonl can't be read"):
        read_corpus(str(tmp_path / "absent.jsonl"))
