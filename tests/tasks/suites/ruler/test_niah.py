"""RULER's needles: exact templates, their kinds, places and gold ranges."""

import collections
import re

import numpy as np
import pytest

from tasks.prompts.context import generator
from tasks.suites.ruler import niah
from tasks.suites.ruler.prompts import NOISE
from tests.oracles.ruler_files import ESSAY_TASKS, SENTENCES, context_of, made


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multikey_2", "niah_multikey_3"])
def test_one_needle_is_asked_for_in_the_singular(task, data_dir):
    kind = "uuid" if task == "niah_multikey_3" else "number"
    prompt = made(task, data_dir)
    (value,) = prompt.outputs
    context = context_of(prompt)
    (key,) = re.findall(rf"One of the special magic {kind}s for (\S+) is: {value}\.", context)
    assert prompt.input == (
        f"A special magic {kind} is hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {kind} afterwards.\n{context}\n"
        f"What is the special magic {kind} for {key} mentioned in the provided text?"
    )
    assert prompt.prefix == (
        f" The special magic {kind} for {key} mentioned in the provided text is"
    )
    assert context.count(key) == 1


def test_several_needles_are_asked_for_in_the_plural(data_dir):
    many = made("niah_multivalue", data_dir)
    pairs = re.findall(r"special magic numbers for (\S+) is: (\d+)\.", many.input)
    assert len(pairs) == 4 and len({key for key, _ in pairs}) == 1
    assert sorted(many.outputs) == sorted(value for _, value in pairs)
    key = pairs[0][0]
    assert many.input.startswith(
        "Some special magic numbers are hidden within the following text. Make sure to memorize "
        "it. I will quiz you about the numbers afterwards.\n"
    )
    assert many.input.endswith(
        f"\nWhat are all the special magic numbers for {key} mentioned in the provided text?"
    )
    assert many.prefix == (
        f" The special magic numbers for {key} mentioned in the provided text are"
    )


def test_four_keys_are_asked_for_in_the_order_of_the_references(data_dir):
    prompt = made("niah_multiquery", data_dir)
    values = dict(re.findall(r"special magic numbers for (\S+) is: (\d+)\.", context_of(prompt)))
    assert len(values) == len(set(values.values())) == 4
    question = re.search(r"numbers for (\S+), (\S+), (\S+), and (\S+) mentioned", prompt.prefix)
    assert [values[key] for key in question.groups()] == list(prompt.outputs)
    one = made("niah_multikey_1", data_dir)
    assert len(re.findall("One of the special magic numbers for", one.input)) == 4
    assert len(one.outputs) == 1


@pytest.mark.parametrize("task", [*ESSAY_TASKS, "niah_single_1", "niah_multikey_2"])
def test_gold_ranges_are_the_needles_in_the_order_of_the_references(task, data_dir):
    for index in range(5):
        prompt = made(task, data_dir, index=index)
        gold = [prompt.input[low:high] for low, high in prompt.gold]
        for needle, value in zip(gold, prompt.outputs, strict=True):
            assert re.fullmatch(rf"One of the special magic \w+s for \S+ is: {value}\.", needle)


def test_keys_and_values_have_their_kinds(data_dir):
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    context = context_of(made("niah_multikey_3", length=3000))
    lines = context.split("\n")
    assert len(lines) > 5
    for line in lines:
        assert re.fullmatch(rf"One of the special magic uuids for {uuid} is: {uuid}\.", line)
    lines = context_of(made("niah_multikey_2")).split("\n")
    keys = [re.fullmatch(r".* for ([a-z]+-[a-z]+) is: [1-9]\d{6}\.", line)[1] for line in lines]
    assert len(set(keys)) == len(keys) > 5
    assert re.fullmatch(uuid, made("niah_single_3", data_dir).outputs[0])


def test_noise_is_one_line_again_and_again():
    prompt = made("niah_single_1")
    lines = context_of(prompt).split("\n")
    assert collections.Counter(lines)[NOISE] == len(lines) - 1 > 5


def test_essays_are_split_between_sentences_and_begin_again(data_dir):
    assert list(niah.essays(data_dir).sentences) == SENTENCES
    words_of_all = " ".join(SENTENCES).split()
    for size in (0, 1, 5, len(words_of_all), 2 * len(words_of_all) + 4):
        rng = generator("essays", 0, size)
        text, ranges = niah.in_essays(niah.essays(data_dir), size, ["NEEDLE A.", "NEEDLE B."], rng)
        assert [text[low:high] for low, high in ranges] == ["NEEDLE A.", "NEEDLE B."]
        hay = re.sub(r"NEEDLE \w\.", "", text).split()
        assert hay == [words_of_all[i % len(words_of_all)] for i in range(size)]
        assert "  " not in text


def test_needles_stand_at_all_depths(data_dir):
    places = []
    for index in range(60):
        prompt = made("niah_single_2", data_dir, index=index)
        (low, _), (start, end) = prompt.gold[0], prompt.context
        places.append((low - start) / (end - start))
    assert np.histogram(places, 3, (0, 1))[0].min() >= 10
