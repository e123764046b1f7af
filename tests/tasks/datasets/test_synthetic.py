"""The synthetic data sets: exact places, exact fit, and demonstrations worth the full reward."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks import generate
from tasks.datasets import reasoning_retrieval
from tasks.datasets.reasoning_retrieval import arithmetic, equation
from tasks.datasets.registry import DATASETS, find
from tasks.errors import TaskInputError, UnfitRowError
from tasks.generate import record
from tasks.prompts.context import generator, insert_at_depths
from tasks.prompts.demonstrations import check_demonstration
from tasks.prompts.fitting import TokenCounter, largest_fit, splits_at_cuts
from tasks.prompts.record import from_json, read_jsonl, to_json, write_jsonl
from tasks.prompts.settings import TaskSettings
from tasks.prompts.span_edges import span_flags
from tests.oracles.loops import for_each
from tests.oracles.task_checks import check_fit

TOKENIZER = tiny_tokenizer()
SYNTHETIC = ("retrieval", "math_retrieval")
SETTINGS_500 = TaskSettings(target_length=500)


def make(dataset="retrieval", index=0, split="train", wanted=SETTINGS_500, seed=0):
    return record(dataset, TOKENIZER, wanted, split, seed, index)


@pytest.mark.parametrize("dataset", ["retrieval", "math_retrieval"])
@for_each("index", range(6))
def test_the_answer_stands_in_the_gold_pair_alone(dataset, index):
    example = make(dataset, index)
    answer = example.ground_truth["answers"][0]
    assert answer in example.ground_truth["gold_documents"][0]
    assert example.prompt.count(answer) == 1


@pytest.mark.parametrize("layout", ["lines", "json", "csv"])
@pytest.mark.parametrize("target_length", [400, 701, 1500])
def test_the_context_is_the_longest_that_fits(target_length, layout):
    wanted = TaskSettings(target_length, formats=(layout,))
    for index in range(3):
        draft = find("retrieval").draft(wanted, "train", 0, index, 0)
        assert check_fit(draft, TOKENIZER, target_length) > 5


@pytest.mark.parametrize("seed", [1, 40, 900])
@pytest.mark.parametrize("target", [10, 11, 137, 5000])
def test_largest_fit_finds_the_number_for_uneven_items(seed, target):
    sizes = np.cumsum([10, *generator("sizes", 0, seed).integers(1, 30, 1000)])
    found = largest_fit(lambda n: int(sizes[n]), target, 1000)
    assert sizes[found] <= target
    assert found == 1000 or sizes[found + 1] > target


@given(st.text(alphabet="ab 7.:,\n\"{}[]é中!?'s-", max_size=200))
@limits(max_examples=300, deadline=None)
def test_tokens_of_pieces_are_the_tokenizers_own(text):
    counter = TokenCounter(TOKENIZER)
    assert splits_at_cuts(TOKENIZER)
    assert counter(text) == counter(text) == len(TOKENIZER.encode(text))
    assert counter.encode(text) == TOKENIZER.encode(text)


def test_gold_items_go_to_their_depths_and_are_found_there():
    items, places = insert_at_depths(list("abcdef"), ["X", "Y", "Z"], [0.99, 0.0, 0.5])
    assert "".join(items) == "YabZcdeXf"
    assert [items[place] for place in places] == ["X", "Y", "Z"]


def test_a_row_that_does_not_fit_gives_way_to_another_and_is_counted(monkeypatch):
    tried = []

    def draft(settings, split, stream, index, attempt):
        tried.append(attempt)
        if attempt < 2:
            raise UnfitRowError("too long")
        return find("retrieval").draft(settings, split, stream, index, attempt)

    slow = dataclasses.replace(find("hotpotqa"), draft=draft)
    monkeypatch.setitem(DATASETS, "hotpotqa", slow)
    monkeypatch.setattr(generate, "gave_way", collections.Counter())
    assert make("hotpotqa").dataset == "hotpotqa"
    assert tried == [0, 1, 2]
    assert generate.gave_way == {"hotpotqa": 2}


def test_a_target_too_short_for_the_question_is_refused():
    wanted = dataclasses.replace(SETTINGS_500, target_length=40)
    with pytest.raises(TaskInputError, match="target_length 40 is too short"):
        make(wanted=wanted)


@for_each("index", range(30))
def test_worked_arithmetic_is_right(index):
    rng = generator("arithmetic", 1, index)
    problem, steps, result = arithmetic(rng, (1, 5), "+-*/")
    plain = problem.replace(r"\times", "*").replace(r"\div", "/")
    assert eval(plain) == result
    assert str(result) in steps


@for_each("index", range(30))
def test_worked_equations_are_right(index):
    problem, steps, solution = equation(generator("equation", 1, index), (1, 5))
    left, right = problem.replace("x", f"*({solution})").split(" = ")
    assert eval(left) == int(right)
    assert steps.endswith(f"= {solution}")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (lambda rng: arithmetic(rng, (300, 300), "+"), r"whole result below 10,000 .* '\+'"),
        (lambda rng: equation(rng, (300, 300)), "linear equation without a coefficient 0"),
    ],
)
def test_terms_without_a_problem_are_refused_not_drawn_for_ever(problem, message, monkeypatch):
    monkeypatch.setattr(reasoning_retrieval, "MAX_DRAWS", 50)
    with pytest.raises(TaskInputError, match=rf"data\.terms = \(300, 300\) gave no {message}"):
        problem(generator("problem", 0, 0))


def test_flags_keep_spans_off_characters_and_words_that_would_be_cut():
    text = "naïve 日本 ab"
    inputs, offsets = TOKENIZER.encode_with_offsets(text)
    for alignment in ("character", "word", "token"):
        copyable, opens, closes = span_flags(
            TOKENIZER, text, inputs, offsets, [(0, len(text))], alignment
        )
        assert copyable.all()
        pieces = [TOKENIZER.token_bytes[token] for token in inputs]
        ends = np.cumsum([len(piece) for piece in pieces])
        boundaries = set(np.cumsum([0, *(len(c.encode()) for c in text)]).tolist())
        words = {0, 1 + 5, 1 + 5 + 1, 1 + 5 + 1 + 6, 1 + 5 + 1 + 6 + 1, len(text.encode())}
        for number, (end, piece) in enumerate(zip(ends, pieces, strict=True)):
            start = end - len(piece)
            if alignment == "character":
                assert opens[number] == (start in boundaries)
                assert closes[number] == (end in boundaries)
            elif alignment == "word":
                assert opens[number] == (start in words)
                assert closes[number] == (end in words)
            else:
                assert opens[number] and closes[number]


def test_added_tokens_inside_the_documents_are_not_copyable():
    text = "ab<|im_end|>cd"
    inputs, offsets = TOKENIZER.encode_with_offsets(text)
    copyable, _, _ = span_flags(TOKENIZER, text, inputs, offsets, [(0, len(text))], "character")
    assert [TOKENIZER.decode([t]) for t, c in zip(inputs, copyable, strict=True) if not c] == [
        "<|im_end|>"
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t, start, end: np.delete(t, end), "not in the copyable context|left open"),
        (lambda t, start, end: np.delete(t, start), "ends that never began"),
        (lambda t, start, end: np.delete(t, range(start + 1, end)), "has 0 tokens"),
        (lambda t, start, end: np.delete(t, range(start + 2, end)), "1 tokens, allowed are 2 to"),
        (lambda t, start, end: np.insert(t, start + 2, 5), "not in the copyable context"),
    ],
)
def test_a_demonstration_that_the_mask_forbids_is_refused_by_name(spoil, message):
    example = make()
    targets = example.targets
    start = targets.tolist().index(TOKENIZER.start_recall_id)
    end = targets.tolist().index(TOKENIZER.end_recall_id)
    flags = (example.copyable, example.span_start, example.span_end)
    with pytest.raises(TaskInputError, match=f"demonstration of some/7 .*({message})"):
        check_demonstration(
            example.inputs,
            flags,
            spoil(targets, start, end),
            TOKENIZER,
            example_id="some/7",
            min_recall_length=2,
            max_recall_length=64,
        )


def test_records_survive_jsonl_and_broken_lines_are_named(tmp_path):
    path = tmp_path / "records.jsonl"
    records = [make(index=i) for i in range(3)]
    assert write_jsonl(path, records) == 3
    assert [to_json(r) for r in read_jsonl(path)] == [to_json(r) for r in records]
    assert to_json(from_json(to_json(records[0]))) == to_json(records[0])
    path.write_text(to_json(records[0]) + "\n{}\n", encoding="utf-8")
    with pytest.raises(TaskInputError, match=r"records.jsonl, line 2: not a valid record"):
        list(read_jsonl(path))
    with pytest.raises(TaskInputError, match="does not exist"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(TaskInputError, match=r"records.jsonl, line 1: .*can't decode byte 0xff"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inputs", [2**40], "not a valid record"),
        ("inputs", [1.5], "inputs has items that are not whole numbers"),
        ("inputs", [[1, 2]], "inputs is not a flat list"),
        ("inputs", [1], "offsets has .* entries for 1 inputs"),
        ("prompt", "short", "offsets reach from 0 to .* in a prompt of 5 characters"),
        ("prompt", 3, "prompt = 3 must be a text"),
        (
            "ground_truth",
            [],
            r"ground_truth = \[\] is not an object; it must have answers and gold",
        ),
        (
            "ground_truth",
            {"answers": ["x"]},
            "has no gold_documents; it must have answers and gold",
        ),
        ("answers", [], r"answers = \[\]: no response could be right"),
        ("answers", [" "], "give at least one answer, and no blank one"),
        ("answers", "x", "answers = 'x' must be a list of texts"),
        ("gold_documents", [1], r"gold_documents = \[1\] must be a list of texts"),
        ("math_answer", 42, "math_answer = 42 must be a text"),
    ],
)
def test_a_record_with_a_broken_field_is_refused(field, value, message):
    fields = json.loads(to_json(make()))
    place = fields if field in fields else fields["ground_truth"]
    place[field] = value
    with pytest.raises(TaskInputError, match=message):
        from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ("xml",)}, "format 'xml' is unknown"),
        ({"terms": (3, 2)}, r"terms \(3, 2\)"),
        ({"operators": "%"}, "operators '%'"),
        ({"value_length": 2}, "value_length 2"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(TaskInputError, match=message):
        TaskSettings(target_length=500, **options)


def test_places_that_end_before_they_begin_and_bottomless_lines_are_refused():
    fields = json.loads(to_json(make()))
    fields["offsets"][3] = fields["offsets"][3][::-1]
    with pytest.raises(TaskInputError, match="a token that ends before it begins"):
        from_json(json.dumps(fields))
    with pytest.raises(TaskInputError, match="not a valid record"):
        from_json("[" * 200_000)
