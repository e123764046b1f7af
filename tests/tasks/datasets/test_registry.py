"""The registry of data sets, and the lists elsewhere that must say the same."""

import dataclasses
import pathlib
import re

import pytest

from configs import common
from tasks.datasets import registry
from tasks.datasets.registry import DATASETS, DECLARED, PAPERS, find, register
from tasks.errors import TaskInputError


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


def test_a_name_that_no_config_can_hold_is_refused():
    with pytest.raises(TaskInputError, match="'my notes' cannot stand in a config; use letters"):
        register(dataclasses.replace(find("retrieval"), name="my notes"))


def test_an_unknown_data_set_is_named_with_the_known_ones():
    with pytest.raises(TaskInputError, match=r"'retreival' is unknown; use one of retrieval, "):
        find("retreival")
