"""Any value at any place of HELMET's files makes a prompt, a skipped row, or one clear error."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tasks.errors import TaskInputError
from tasks.prompts.settings import TaskSettings
from tasks.suites.helmet import cited_answers
from tests.oracles.helmet_files import (
    TASKS,
    TOKENIZER,
    alce_files,
    alce_row,
    book,
    kilt_files,
    kilt_row,
    kv_row,
    make,
    rank_row,
    story,
    write,
)


def test_malformed_rows_are_left_out_and_counted(tmp_path, caplog):
    good = kilt_row("good")
    bad = [
        "{no json",
        "[1, 2]",
        json.dumps(kilt_row("a") | {"ctxs": []}),
        json.dumps(kilt_row("b") | {"answers": [""]}),
        json.dumps(kilt_row("c") | {"ctxs": [{"text": "no title"}]}),
        json.dumps({"answers": ["x"]}),
        json.dumps(kilt_row("d") | {"answers": ["half a pair \ud800"]}),
    ]
    kilt_files(tmp_path, [*bad, good], [kilt_row("d1"), kilt_row("d2")])
    with caplog.at_level(logging.WARNING):
        records = make(tmp_path, "helmet_kilt_nq")
    assert [r.ground_truth["answers"][0] for r in records] == ["good!"]
    assert "7 rows left out" in caplog.text
    for reason in (
        "not JSON",
        "not valid Unicode",
        "not an object",
        "no ctxs",
        "no answers",
        "without title",
        "no id",
    ):
        assert reason in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
GOOD_ROWS = {
    "helmet_json_kv": ("json_kv/test_k105_dep6.jsonl", [kv_row(1)]),
    "helmet_ruler_niah_mv": (
        "ruler/niah_multivalue/validation_8192.jsonl",
        [{"context": "c", "query": "q", "type_needle_v": "numbers", "answer": ["1"]}],
    ),
    "helmet_kilt_popqa_3": (
        "kilt/popqa_test_1000_k50_dep6.jsonl",
        [kilt_row(f"q{i}", 1, id=f"i{i}", s_pop=9) for i in range(3)],
    ),
    "helmet_msmarco_rerank_psg": (
        "msmarco/test_reranking_data_k50_dep3.jsonl",
        [rank_row(name, {1: 0, 2: 1}) for name in "abc"],
    ),
    "helmet_alce_asqa": (
        "alce/asqa_eval_gtr_top2000.json",
        [alce_row("q", 2, qa_pairs=[{"short_answers": ["a"]}])],
    ),
    "helmet_narrativeqa": ("narrativeqa/test.jsonl", [story("text", f"{i}?") for i in range(2)]),
    "helmet_infbench_choice_eng": (
        "infbench/longbook_choice_eng.jsonl",
        [book(n, answer=["o1"], options=["o0", "o1", "o2", "o3"]) for n in range(3)],
    ),
    "helmet_multi_lexsum": (
        "multi_lexsum/validation.jsonl",
        [{"sources": ["One."], "summary/short": "Short."} for _ in range(2)],
    ),
}
OTHER_FILES = {
    "kilt/popqa_test_1000_k50_dep6.jsonl": "kilt/popqa_test_1000_k3_dep6.jsonl",
    "msmarco/test_reranking_data_k50_dep3.jsonl": "msmarco/test_reranking_data_k10_dep3.jsonl",
    "narrativeqa/test.jsonl": "narrativeqa/train.jsonl",
    "multi_lexsum/validation.jsonl": "multi_lexsum/train.jsonl",
}


def places(value, path=()):
    """Yield the paths of all values within a row."""
    yield path
    children = value.items() if isinstance(value, dict) else []
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", GOOD_ROWS)
@limits(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_row_with_anything_in_any_place_gives_a_prompt_or_one_error(name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    path, good = GOOD_ROWS[name]
    row = replaced(good[0], data.draw(st.sampled_from(list(places(good[0])))), data.draw(JSON))
    rows = [row, *good[1:]]
    alce_files(folder, rows)
    for file in (path, OTHER_FILES.get(path)):
        if file and not file.endswith(".json"):
            write(folder / file, map(json.dumps, rows))
    try:
        make(folder, name, long_only=False)
    except TaskInputError as error:
        assert "\n" not in str(error)


def test_a_file_without_usable_rows_is_one_error(tmp_path):
    write(tmp_path / "json_kv/test_k105_dep6.jsonl", [{"context": "x"}, "nonsense"])
    with pytest.raises(TaskInputError, match=r"k105_dep6\.jsonl has no row that can be used") as e:
        make(tmp_path, "helmet_json_kv")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_missing_file_is_one_error_that_says_where_to_get_it(name, tmp_path):
    with pytest.raises(TaskInputError, match=r"has no .*(jsonl?|csv).* get it from .+") as error:
        make(tmp_path, name)
    assert "\n" not in str(error.value)
    with pytest.raises(TaskInputError, match=r"set config\.data\.dir"):
        TASKS[name].records(TOKENIZER, TaskSettings(target_length=8192), 8192, 1, 0)


def test_a_prompt_file_of_another_form_is_an_error(tmp_path):
    alce_files(tmp_path, [alce_row("q", 1, qa_pairs=[])])
    (tmp_path / "prompts/asqa_revised.json").write_text("[]")
    with pytest.raises(TaskInputError, match=r"asqa_revised\.json: a row that is not an object"):
        make(tmp_path, "helmet_alce_asqa")
    (tmp_path / "prompts/asqa_revised.json").write_text('{"instruction": "x", "demos": [{}]}')
    with pytest.raises(TaskInputError, match="no question; download it again"):
        make(tmp_path, "helmet_alce_asqa")
    assert cited_answers.PROMPTS.startswith("HELMET")
