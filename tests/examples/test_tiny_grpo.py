"""The example learns, and stays short enough to be read in one go."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

PATH = pathlib.Path("examples/tiny_grpo.py")


@pytest.fixture
def tiny_grpo(monkeypatch):
    spec = importlib.util.spec_from_file_location("tiny_grpo", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tiny_grpo", module)
    spec.loader.exec_module(module)
    return module


def test_the_reward_rises(tiny_grpo, capsys):
    rewards = tiny_grpo.main(steps=80, seed=0)
    assert np.mean(rewards[:10]) < 0.05
    assert np.mean(rewards[-10:]) > 0.8
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(words[1]) for words in shown] == [*range(0, 80, 10), 79]
    assert float(shown[-1][3]) == pytest.approx(rewards[-1], abs=5e-4)


def test_the_reward_of_responses_by_hand(tiny_grpo):
    start, end, stop = tiny_grpo.START, tiny_grpo.END, tiny_grpo.STOP
    right = np.array([[start, 8, 9, end, stop]])
    responses = {
        (start, 8, 9, end, stop, 0): 1.0,
        (start, 8, end, stop, 0, 0): 0.6,
        (start, 8, 10, end, stop, 0): 0.6,
        (start, 8, 9, end, 3, stop): 0.8,
        (8, 9, end, stop, 0, 0): 0.0,
    }
    found = tiny_grpo.reward_of(np.array([list(responses)]), right)
    np.testing.assert_allclose(found[0], list(responses.values()), rtol=1e-6)


def test_it_is_short_and_imports_two_packages_only():
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    assert "tasks" not in text and "recallm_jax" not in text
