"""Needles in running text: each stands once at its place; the values asked for are gold."""

import itertools
import re
import uuid
from collections import Counter

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.multi_niah import NEEDLES, codes, listed, names
from tasks.datasets.registry import find
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tasks.prompts.words import word_list
from tasks.sources import haystack
from tasks.sources.essays import read_essays
from tests.oracles.loops import for_each
from tests.oracles.real_data import shared_data, shared_file
from tests.oracles.task_checks import check_record

TOKENIZER = tiny_tokenizer()
SETTINGS = TaskSettings(target_length=2500)
SHARED = shared_data()
WITH_ESSAYS = pytest.mark.skipif(
    shared_file("haystack_essays.txt") is None, reason="the essays are not here"
)
KEY = "[a-z]+-[a-z]+"
VALUE = f"[0-9]{{7}}|[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|{KEY}"


def draft(index, settings=SETTINGS):
    return find("multi_niah").draft(settings, "train", 0, index, 0)


def needles(text):
    """Return the (start, end, key, value) of the needles in a text, in their order."""
    found = []
    for wording in NEEDLES:
        pattern = re.escape(wording).replace(r"\{kind\}", "(?:number|word|UUID)")
        pattern = pattern.replace(r"\{key\}", f"(?P<key>{KEY})")
        pattern = pattern.replace(r"\{value\}", f"(?P<value>{VALUE})")
        for match in re.finditer(pattern, text):
            found.append((*match.span(), match["key"], match["value"]))
    return sorted(found)


@for_each("index", range(40))
@pytest.mark.parametrize("size", [0, 1, 30])
def test_the_answer_has_the_values_asked_for_in_the_order_of_question_and_text(index, size):
    example = draft(index).example(size)
    ((low, high),) = example.documents
    found = needles(example.user[low:high])
    question = example.user[high:] or example.user[:low]
    asked = [key for key in re.findall(KEY, question) if key in {k for _, _, k, _ in found}]
    assert asked and len(set(asked)) == len(asked)
    wanted = [needle for key in asked for needle in found if needle[2] == key]
    assert example.truth["parts"] == [[value] for *_, value in wanted]
    assert example.truth["answers"] == [" ".join(value for *_, value in wanted)]
    assert example.gold == tuple((low + a, low + b) for a, b, *_ in wanted)
    others = [value for *_, key, value in found if key not in asked]
    assert sorted(example.truth["wrong"]) == sorted(others)


def test_numbers_of_needles_stay_within_bounds_and_reach_them():
    shapes, kinds = Counter(), Counter()
    for index in range(300):
        example = draft(index).example(0)
        ((low, high),) = example.documents
        found = needles(example.user[low:high])
        keys = Counter(key for *_, key, _ in found)
        assert len(found) <= 16 and len(set(keys.values())) == 1
        asked = len({key for *_, key, value in found if [value] in example.truth["parts"]})
        shapes.update(
            [("keys", len(keys)), ("values", next(iter(keys.values()))), ("asked", asked)]
        )
        value = found[0][3]
        kinds[7 if value.isdigit() else 36 if len(value) == 36 else 0] += 1
    for name, most in (("keys", 10), ("values", 5), ("asked", 6)):
        assert {number for kind, number in shapes if kind == name} == set(range(1, most + 1))
    assert min(kinds.values()) > 70 and len(kinds) == 3


@for_each("index", range(40))
def test_every_key_and_value_is_there_once_and_inside_no_other(index):
    example = draft(index).example(400)
    ((low, high),) = example.documents
    text = example.user[low:high]
    found = needles(text)
    per_key = Counter(key for *_, key, _ in found)
    values = [value for *_, value in found]
    assert all(text.count(value) == 1 for value in values)
    assert all(text.count(key) == number for key, number in per_key.items())
    for one, other in itertools.permutations([*values, *per_key], 2):
        assert one not in other


def test_no_adjective_is_a_noun_so_that_no_two_names_make_a_third():
    adjectives, nouns = word_list("adjectives"), word_list("nouns")
    assert not set(adjectives) & set(nouns)
    assert len(set(adjectives)) == len(adjectives)
    assert len(set(nouns)) == len(nouns)


def test_needles_stand_between_whole_sentences_at_any_depth():
    depths = []
    for index in range(60):
        made = draft(index)
        example, plain = made.example(200), haystack_of(made, 200)
        ((low, high),) = example.documents
        text = example.user[low:high]
        rest, last = [], 0
        for start, end, *_ in needles(text):
            rest.append(text[last:start])
            last = end
            depths.append(start / len(text))
        rest = "".join([*rest, text[last:]])
        assert " ".join(rest.split()) == plain
    spread = np.histogram(depths, bins=5, range=(0, 1))[0] / len(depths)
    assert spread == pytest.approx([0.2] * 5, abs=0.07)


def haystack_of(made, size):
    """Return the filler sentences of a draft, without the needles."""
    return " ".join(made.example.args[0].beginning(size))


def test_more_fillers_only_add_sentences():
    made = draft(3)
    first = haystack_of(made, 50)
    assert haystack_of(made, 51).startswith(first)
    assert haystack_of(draft(3), 50) == first
    assert haystack_of(draft(4), 50) != first


@for_each("seed", range(3))
def test_a_text_of_128k_tokens_repeats_no_two_sentences_in_a_row(seed):
    sentences = haystack.haystack("", np.random.default_rng(seed))(7000)
    # English has some four characters a token.
    assert sum(map(len, sentences)) > 4 * 131_072
    assert len(set(itertools.pairwise(sentences))) == 6999
    assert len(set(sentences)) > 6500
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z][a-z',; -]+[.?]", sentence), sentence
        assert not re.search(r"\b(\w+) \1\b", sentence), sentence
        # Nobody asks himself, and nothing is like itself.
        assert not re.search(r"(?i)^(.+)( asked|, like) \1( whether|,)", sentence), sentence


@pytest.mark.parametrize("target", [700, 1024, 1800])
def test_short_prompts_have_fewer_needles_and_hold_them(target):
    settings = TaskSettings(target_length=target)
    for index in range(40):
        example = draft(index, settings).example(0)
        prompt = TOKENIZER.chat_prompt(example.system, example.user)
        assert len(TOKENIZER.encode(prompt)) <= target


@for_each("index", range(20))
def test_a_demonstration_recalls_the_gold_needles_in_order_and_gives_their_values(index):
    example = draft(index).example(40)
    demonstration = example.demonstrate(generator("test", 0, index))
    spans = [part for part in demonstration.thought if not isinstance(part, str)]
    assert tuple(spans) == example.gold
    values = [value for [value] in example.truth["parts"]]
    assert demonstration.answer == ", ".join(values)
    # Each key is named once, before the first of its needles.
    told = [part for part in demonstration.thought if isinstance(part, str)]
    assert len(told) == len(spans)
    last = ""
    for text, (low, high) in zip(told, spans, strict=True):
        key = needles(example.user[low:high])[0][2]
        assert (key in text) == (key != last)
        last = key


@for_each("index", range(8))
def test_demonstrations_hold_the_spans_verbatim(index):
    example = record("multi_niah", TOKENIZER, SETTINGS, "train", 0, index)
    text = TOKENIZER.decode(example.targets)
    spans = re.findall(r"<\|start_recall\|>(.*?)<\|end_recall\|>", text)
    # A token may begin with the space before its sentence.
    assert [span.lstrip(" ") for span in spans] == example.ground_truth["gold_documents"]


def test_drawn_names_and_codes_avoid_the_text():
    rng = np.random.default_rng(0)
    first = names(rng, 5, "")
    assert set(names(np.random.default_rng(0), 5, " ".join(first))).isdisjoint(first)
    assert len(set(codes(rng, "number", 50, ""))) == 50
    assert all(uuid.UUID(code).version == 4 for code in codes(rng, "UUID", 5, ""))
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_sentences_are_split_where_they_end_and_absurd_ones_left_out():
    text = 'One is\nhere.Two was "there." Is it? (Yes.) At 3.5 m, e.g. here. ' + "X" * 700 + "."
    assert haystack.read_sentences(text) == [
        "One is here.",
        'Two was "there."',
        "Is it?",
        "(Yes.)",
        "At 3.5 m, e.g. here.",
    ]


def test_essays_follow_each_other_and_start_again(tmp_path):
    (tmp_path / "haystack_essays.txt").write_text("A a. B b. C c.", encoding="utf-8")
    seen = set()
    for seed in range(20):
        sentences = haystack.haystack(str(tmp_path), np.random.default_rng(seed))(7)
        seen.add(sentences[0])
        order = ["A a.", "B b.", "C c."] * 4
        first = order.index(sentences[0])
        assert sentences == order[first : first + 7]
    assert len(seen) == 3


def test_essays_that_are_no_text_are_one_clear_error(tmp_path):
    path = tmp_path / "haystack_essays.txt"
    path.write_bytes(b"A \xff b.")
    with pytest.raises(TaskInputError, match=r"haystack_essays\.txt can't be read .*UTF-8"):
        draft(0, TaskSettings(2500, data_dir=str(tmp_path)))
    for text, message in ((b" \n", "is empty"), (b"a" * 700, "no sentence of at most 600 char")):
        read_essays.cache_clear()
        path.write_bytes(text)
        with pytest.raises(TaskInputError, match=message):
            draft(0, TaskSettings(2500, data_dir=str(tmp_path)))


@WITH_ESSAYS
def test_real_essays_hide_needles():
    settings = TaskSettings(2500, data_dir=str(SHARED))
    for index in range(3):
        check_record(record("multi_niah", TOKENIZER, settings, "train", 0, index), TOKENIZER, 2500)
    text = haystack.essay_text(str(SHARED))
    assert len(text) > 400_000
    example = draft(0, settings).example(100)
    ((low, high),) = example.documents
    found = needles(example.user[low:high])
    assert found and not any(value in text for *_, value in found)
