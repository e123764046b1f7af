"""The registry of data sets, and the lists elsewhere that must say the same."""

import dataclasses
import pathlib
import re

import pytest

from configs import common
from tasks.datasets import registry
from tasks.datasets.registry import DATASETS, DECLARED, PAPERS, find, register
from tasks.errors import TaskInputError
from tasks.suites.registry import find_task


def test_the_configs_list_is_the_registrys():
    assert {d.name: d.category for d in DECLARED} == {
        name: category for category, names in common.CATEGORIES.items() for name in names
    }
    assert tuple(d.name for d in DECLARED) == common.DATASETS
    assert tuple(d.name for d in PAPERS) == common.PAPER
    assert tuple(d.name for d in DECLARED if d.source is None) == common.SYNTHETIC


def test_the_paper_has_seventeen_data_sets_in_ten_categories():
    assert len(PAPERS) == 17
    assert len({dataset.category for dataset in PAPERS}) == 10


def test_every_name_is_declared_once_and_equals_that_of_its_files():
    assert len(DATASETS) == len(DECLARED)
    for dataset in DECLARED:
        assert find(dataset.name) is dataset
        assert dataset.source is None or dataset.source.dataset == dataset.name


def test_the_table_of_the_docs_has_every_data_set_with_its_category_and_metrics():
    text = pathlib.Path("docs/tasks.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \((\w+)\) \| (.*) \| (.*) \| .* \|$", text, re.MULTILINE)
    shown = {name: metrics for name, _, _, metrics in found}
    assert [(name, category) for name, category, _, _ in found] == [
        (dataset.name, dataset.category) for dataset in PAPERS
    ]
    for name, _, files, metrics in found:
        assert files.startswith("none") == (find(name).source is None)
        other = re.fullmatch(r"as `(\w+)`", metrics)
        names = re.findall(r"`(\w+)`", shown[other[1]] if other else metrics)
        assert names == list(find(name).metrics)


def test_a_data_set_is_added_or_replaced_by_one_call(monkeypatch):
    monkeypatch.setattr(registry, "DATASETS", dict(DATASETS))
    mine = dataclasses.replace(find("retrieval"), name="mine")
    register(mine)
    assert find("mine") is mine
    other = dataclasses.replace(mine, category="other")
    register(other)
    assert find("mine") is other


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "my notes", "'my notes' cannot stand in a config; use letters, digits and _"),
        ("name", "", "dataset '' cannot stand in a config"),
        ("metrics", {}, r"'retrieval' has metrics = {}; give at least one score, the main one"),
    ],
)
def test_a_declaration_that_no_run_could_use_is_refused(field, value, message):
    with pytest.raises(TaskInputError, match=message):
        dataclasses.replace(find("retrieval"), **{field: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gold_mode": "all"}, "gold_mode = 'all' is not one of 'standard', 'top_k_gold', 'alw"),
        ({"gold_mode": "top_k_gold"}, "top_k = 0 lets no gold document count .*; give at least 1"),
        ({"many_shot": True}, "top_k = 0 lets no gold document count"),
        ({"hit_threshold": 0}, "hit_threshold = 0 is out of bounds; give more than 0 and at most"),
        ({"hit_threshold": 1.5}, "hit_threshold = 1.5 is out of bounds"),
        ({"hit_threshold": float("nan")}, "hit_threshold = nan is out of bounds"),
        ({"min_span": -1}, "min_span = -1 is negative; give at least 0"),
        ({"free_spans": -2}, "free_spans = -2 is negative; give at least 0"),
    ],
)
def test_an_impossible_row_of_the_rewards_table_is_refused(options, message):
    with pytest.raises(TaskInputError, match=rf"reward\.{message}"):
        dataclasses.replace(find("retrieval").reward, **options)


def test_the_bounds_of_a_row_of_the_rewards_table_are_allowed():
    row = find("retrieval").reward
    dataclasses.replace(row, hit_threshold=1, min_span=0, free_spans=0)
    dataclasses.replace(row, gold_mode="top_k_gold", top_k=1)


def test_the_name_of_a_suites_task_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "DATASETS", dict(DATASETS))
    with pytest.raises(TaskInputError, match="'ruler_vt' has the name of an evaluation suite's t"):
        register(dataclasses.replace(find("retrieval"), name="ruler_vt"))
    assert not any(find_task(dataset.name) for dataset in DECLARED)


def test_an_unknown_data_set_is_named_with_the_known_ones():
    with pytest.raises(TaskInputError, match=r"'retreival' is unknown; use one of retrieval, "):
        find("retreival")
