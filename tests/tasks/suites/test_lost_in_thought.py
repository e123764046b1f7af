"""The probe's thoughts: their lengths are exact, their keys right, and they give no value away."""

import json
import re

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.prompts.context import generator
from tasks.prompts.record import to_json
from tasks.prompts.settings import FORMATS, TaskSettings
from tasks.suites import lost_in_thought
from tasks.suites.lost_in_thought import (
    is_right,
    pairs_of,
    probe,
    read_value,
    variants,
    write_thought,
)
from tests.oracles.loops import for_each

TOKENIZER = tiny_tokenizer()


def make(index=0, tokens=128, layout="lines", most=128, seed=0, thinking=True):
    settings = TaskSettings(400, formats=(layout,), thinking=thinking)
    retrieval = record("retrieval", TOKENIZER, settings, "validation", seed, index)
    rng = generator(f"test/{tokens}", seed, index)
    lengths = {"reasoning_tokens": tokens, "max_recall_length": most}
    return probe(retrieval, TOKENIZER, rng, **lengths, thinking=thinking)


def number_of(text):
    return set(re.findall(r"-?\d+", text))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("tokens", [32, 33, 64, 127, 1024])
def test_a_thought_has_its_tokens_ends_in_the_key_and_holds_no_value(tokens, layout):
    for index in range(4):
        item = make(index, tokens, layout)
        assert len(TOKENIZER.encode(item.thought)) == tokens
        assert re.search(rf"(?<![-\d]){re.escape(item.key)}\.$", item.thought)
        assert not any(value in item.thought for _, value in pairs_of(item.record))
        assert number_of(item.thought) <= {key for key, _ in pairs_of(item.record)}


def test_a_long_thought_considers_other_keys_in_varied_sentences():
    thought = make(tokens=1024).thought
    sentences = re.split(r"(?<=[.?]) ", thought)
    assert len(number_of(thought)) > 4
    assert len(set(sentences)) > 0.8 * len(sentences)


def test_probes_are_functions_of_the_record_and_the_generator():
    first, again = make(3), make(3)
    assert to_json(first.record) == to_json(again.record)
    assert first.prefixes == again.prefixes
    thoughts = {make(index, tokens).thought for index in (0, 1, 2) for tokens in (120, 121)}
    assert len(thoughts) == 6


def test_the_question_is_about_the_key_and_the_pair_is_the_gold_one():
    for index in range(6):
        item = make(index)
        question = item.prompt.replace(item.record.ground_truth["gold_documents"][0], "")
        assert f"key {item.key}" in question
        assert item.record.ground_truth["answers"] == [item.value]


@for_each("index", range(4))
def test_the_pairs_are_those_that_a_json_reader_finds(index):
    item = make(index, layout="json")
    context = re.search(r"\{\n.*\n\}", item.prompt, re.DOTALL)
    assert context is not None
    assert pairs_of(item.record) == list(json.loads(context[0]).items())


def test_the_thought_follows_the_prompt_and_may_not_be_copied():
    item = make(tokens=64)
    plain = make(tokens=0).record
    assert item.record.prompt == plain.prompt + item.thought
    assert item.record.inputs.tolist() == plain.inputs.tolist() + TOKENIZER.encode(item.thought)
    for name in ("copyable", "span_start", "span_end"):
        assert not getattr(item.record, name)[len(plain.inputs) :].any()
        assert (getattr(item.record, name)[: len(plain.inputs)] == getattr(plain, name)).all()
    low, high = item.record.offsets[-1]
    assert item.record.prompt[low:high] == "."


@pytest.mark.parametrize("layout", FORMATS)
@for_each("index", range(4))
def test_a_span_begins_with_the_pair_as_it_stands_up_to_its_value(layout, index):
    item = make(index, layout=layout)
    start, *cue = item.prefixes["recall"]
    assert start == TOKENIZER.start_recall_id
    inputs = item.record.inputs.tolist()
    places = [at for at in range(len(inputs)) if inputs[at : at + len(cue)] == cue]
    assert len(places) == 1
    assert item.record.copyable[places[0] : places[0] + len(cue)].all()
    assert item.record.span_start[places[0]]
    assert TOKENIZER.decode(cue) == item.cue
    assert item.key in item.cue and item.value not in item.cue
    behind = item.prompt[item.record.offsets[places[0] + len(cue), 0] :]
    assert behind.startswith(item.value)
    # The control begins with the same tokens.
    assert item.prefixes["cued"][-len(cue) :] == cue
    assert item.prefixes["recall_unaided"] == [start]


def test_without_a_thought_the_value_is_asked_for_directly():
    item = make(tokens=0)
    assert item.thought == "" and item.record.prompt == item.prompt
    assert tuple(item.prefixes) == variants(0) == ("direct", "recall", "cued", "recall_unaided")
    asked = f"</think>\nAnswer: The value of key {item.key} is"
    assert TOKENIZER.decode(item.prefixes["direct"]) == asked
    later = make(tokens=64)
    assert tuple(later.prefixes) == ("thought", "recall", "cued", "recall_unaided")
    assert TOKENIZER.decode(later.prefixes["thought"]) == f"\n{asked}"


def test_a_model_without_thoughts_is_asked_as_it_learned_to_answer():
    for tokens, name, line in ((0, "direct", ""), (64, "thought", "\n")):
        item = make(tokens=tokens, thinking=False)
        prefixes = {variant: TOKENIZER.decode(ids) for variant, ids in item.prefixes.items()}
        assert prefixes[name] == f"{line}Answer:"
        assert prefixes["cued"] == f"{line}Answer:\n{item.cue}"
        assert not item.prompt.endswith("<think>\n")
        assert not any("think>" in prefix for prefix in prefixes.values())
        assert read_value(name, f"{line}Answer: {item.value}", item.cue) == item.value


def test_sentences_that_hold_a_value_are_left_out():
    rng = np.random.default_rng(0)
    thought = write_thought(TOKENIZER, "12", ["3", "45"], ["keep", "entry"], 700, rng)
    assert len(TOKENIZER.encode(thought)) == 700
    assert "keep" not in thought and "entry" not in thought


def test_a_context_of_one_key_needs_no_others():
    thought = write_thought(TOKENIZER, "12", [], ["abcd"], 300, np.random.default_rng(0))
    assert len(TOKENIZER.encode(thought)) == 300
    assert number_of(thought) == {"12"}


def test_a_thought_that_cannot_be_written_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(TaskInputError, match="no thought of exactly 5 tokens about key 12"):
        write_thought(TOKENIZER, "12", ["3", "45"], [], 5, rng)
    # Every closing sentence names the key.
    with pytest.raises(TaskInputError, match="no thought of exactly 200 tokens"):
        write_thought(TOKENIZER, "1234", ["3", "45"], ["1234"], 200, rng)


def test_a_pair_that_no_span_can_hold_is_refused():
    with pytest.raises(
        TaskInputError, match=r"a recall span at most 8; raise decoding\.max_recall"
    ):
        make(most=8)


@for_each("total", range(40))
def test_a_choice_adds_up_wherever_one_exists(total):
    counts = [9, 4, 4, 11, 6]
    sums = {
        sum(count for place, count in enumerate(counts) if choice >> place & 1)
        for choice in range(32)
    }
    chosen = lost_in_thought._subset(counts, total)
    assert (chosen is not None) == (total in sums)
    if chosen is not None:
        assert len(set(chosen)) == len(chosen)
        assert sum(counts[place] for place in chosen) == total


@pytest.mark.parametrize(
    ("variant", "response", "read", "right"),
    [
        ("direct", "</think>\nAnswer: The value is aB3dE.", "The value is aB3dE.", 1),
        ("thought", "\n</think>\nAnswer: The value is aB3d", "The value is aB3d", 0),
        ("thought", "\n</think>\nAnswer: aB3dE or Zz9yX", "aB3dE or Zz9yX", 0),
        ("thought", "\n</think>\nAnswer:", "", 0),
        ("recall", "Key 7:\naB3dE\nKey 8:\nZz9yX", "aB3dE", 1),
        ("recall", "Key 7:\naB3", "aB3", 0),
        ("recall", "Key 7:\n", "", 0),
        ("cued", "\n</think>\nAnswer:\nKey 7:\n\naB3dE\nKey 8:\nZz9yX", "aB3dE", 1),
        ("cued", "\n</think>\nAnswer:\nKey 7:\nThe value is aB3dE", "The", 0),
        ("recall_unaided", "Key 7:\naB3dE", "Key 7:\naB3dE", 1),
        ("recall_unaided", "Key 7:\naB3dE\nKey 8:\nZz9yX", "Key 7:\naB3dE\nKey 8:\nZz9yX", 0),
    ],
)  # fmt: skip
def test_the_value_is_read_by_variant(variant, response, read, right):
    assert read_value(variant, response, "Key 7:\n") == read
    assert is_right(read, "aB3dE") == right
