"""An example that breaks the rules of a draft is refused when its record is made."""

import dataclasses

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets import registry
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.prompts.context import Draft, Example
from tasks.prompts.record import from_json, to_json
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS

TOKENIZER = tiny_tokenizer()
USER = "part 17: bin C8\n\nIn which bin is part 17?"
RIGHT = {"documents": ((0, 15),), "gold": ((0, 15),), "truth": {"answers": ["C8"]}}


def make(monkeypatch, **changed):
    example = Example(system=SYSTEMS[0], user=USER, **{**RIGHT, **changed})
    bins = dataclasses.replace(
        registry.find("retrieval"), name="bins", draft=lambda *_: Draft(lambda _: example, most=0)
    )
    monkeypatch.setitem(registry.DATASETS, "bins", bins)
    return record("bins", TOKENIZER, TaskSettings(500), "train", 0, 3)


def test_a_right_example_becomes_a_record_that_survives_json(monkeypatch):
    places = tuple(np.arange(0, 16, 15))
    for changed in (
        {},
        {"truth": {"answers": ("C8",)}},
        {"documents": (places,), "gold": (places,)},
    ):
        made = make(monkeypatch, **changed)
        assert made.ground_truth["gold_documents"] == ["part 17: bin C8"]
        assert to_json(from_json(to_json(made))) == to_json(made)
    assert make(monkeypatch, gold=()).ground_truth["gold_ranges"] == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"truth": {}}, "ground_truth has no answers; it must have answers and gold_documents"),
        ({"truth": {"answers": []}}, r"answers = \[\]: no response could be right; give at least"),
        ({"truth": {"answers": [" "]}}, r"answers = \[' '\]: no response could be right"),
        ({"truth": {"answers": "C8"}}, "ground_truth.answers = 'C8' must be a list of texts"),
        ({"truth": {"answers": ["C8"], "aisle": "C"}}, "ground_truth.aisle = 'C' must be left out"),
        (
            {"documents": ((0, 99),)},
            r"documents has the range \(0, 99\), but the user's text has 41",
        ),
        ({"documents": ((-1, 15),)}, r"documents has the range \(-1, 15\)"),
        ({"documents": ((15, 0),)}, r"documents has the range \(15, 0\)"),
        ({"documents": (0, 15)}, r"documents has 0, which is no range; give pairs of characters"),
        ({"gold": ((0, 15.0),)}, r"gold has \(0, 15\.0\), which is no range"),
        (
            {"gold": ((0, 16),)},
            r"gold has the range \(0, 16\), which is empty or lies in none of the",
        ),
        ({"gold": ((5, 5),)}, r"gold has the range \(5, 5\), which is empty"),
        (
            {"documents": ((0, 4), (4, 15))},
            r"gold has the range \(0, 15\), which is empty or lies in",
        ),
    ],
)
def test_a_broken_example_is_refused_by_name(changed, message, monkeypatch):
    with pytest.raises(TaskInputError, match=rf"^recallm_bins_train/3: .*{message}"):
        make(monkeypatch, **changed)
