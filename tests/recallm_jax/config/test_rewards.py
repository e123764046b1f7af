"""The reward that a config describes, from its fields to the files of a run."""

import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from recallm_jax.config.kept import FILE, check_kept, keep_config, keep_reward
from recallm_jax.config.load import load_config
from recallm_jax.config.rewards import (
    check_rewards,
    evaluation_rewards,
    reward_file_hash,
    training_rewards,
    user_reward,
)
from recallm_jax.runtime.errors import UserError
from rl.rewards.composite import Completion
from rl.rewards.rule import Asked
from tasks.datasets.registry import find
from tasks.errors import TaskInputError
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import GroundTruth

TINY = "--config=configs/quickstart.py:tiny"
KEPT = {"may_change": (), "remedy": "give another --workdir"}


def config(*overrides):
    return load_config([TINY, *(f"--config.reward.{override}" for override in overrides)])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's with a reward, in the folder that a job starts in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_rewards", "broken_rewards", "leaving_rewards"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    path = tmp_path / "my_rewards.py"
    path.write_text(
        "def brief(response, spans, asked):\n"
        "    return 1.0 if len(response) < 60 else 0.0\n\n"
        "def two(response, spans):\n    return 1.0\n"
    )
    (tmp_path / "broken_rewards.py").write_text("raise RuntimeError('no such table')\n")
    (tmp_path / "leaving_rewards.py").write_text("raise SystemExit(3)\n")
    yield path


def test_the_default_is_the_papers_reward_with_our_scores():
    train, evaluation = training_rewards(config()), evaluation_rewards(config())
    assert (train.settings, evaluation.settings) == (SETTINGS["train"], SETTINGS["eval"])
    assert train.scorer_of("retrieval") is find("retrieval") and train.function is None


def test_fields_reach_the_rule():
    changed = config(
        "rule=paper",
        *("format_weight=0.1", "sum_weight=0.9", "product_weight=0.0", "retrieval_share=0.2"),
        *("gold_documents=False", "density_limit=7.5", "many_shot_gold_mode=always_1"),
    )
    train, evaluation = training_rewards(changed), evaluation_rewards(changed)
    weights = train.settings.weights
    assert (weights.format, weights.sum, weights.product, weights.retrieval) == (0.1, 0.9, 0, 0.2)
    assert evaluation.settings.weights == weights
    assert not train.settings.gold_documents and not evaluation.settings.gold_documents
    assert (train.settings.density_limit, evaluation.settings.density_limit) == (7.5, 6.0)
    assert train.settings.many_shot_gold_mode == "always_1"
    # The paper's rule takes the value as a substring, ours as a word.
    truth = GroundTruth("retrieval", ("bb",))
    listed = Completion("x</think>\nAnswer: aabbcc", 9, (), 0, 0, finished=True)
    asked = Asked("a", "", truth)
    assert train.reward(listed, asked, ()).answer == 1.0
    assert training_rewards(config()).reward(listed, asked, ()).answer == 0.0
    off = config("density=False")
    assert training_rewards(off).settings.density_limit == math.inf
    assert evaluation_rewards(off).settings.density_limit == math.inf


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sum_weight=0.5", r"sum_weight \+ product_weight = 1.1; the reward is in \[0, 1\] only"),
        ("rule=theirs", r"config.reward.rule = 'theirs'"),
        ("format_weight=2.0", r"config.reward.format_weight = 2.0"),
    ],
)
def test_bad_values_are_one_clear_error(override, message):
    with pytest.raises(UserError, match=message):
        config(override)


def test_a_users_function_is_found_and_rewards(module):
    rule = training_rewards(config("function=my_rewards:brief"))
    truth = Asked("a", "", GroundTruth("retrieval", ("bb",)))
    short = Completion("x</think>\nAnswer: aa", 9, (), 0, 0, finished=True)
    assert rule.reward(short, truth, ()).total == 1.0
    check_rewards(config("function=my_rewards:brief"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_rewards", r'must be "module:function"'),
        (":brief", r'must be "module:function"'),
        ("no_such_rewards:brief", r"can't be imported \(ModuleNotFoundError: .*start the job in"),
        ("broken_rewards:brief", r"can't be imported \(RuntimeError: no such table"),
        ("leaving_rewards:brief", r"can't be imported \(SystemExit: 3\)"),
        ("my_rewards:long", r"my_rewards has no function long"),
        ("my_rewards:two", r"does not take \(response, spans, asked\): too many positional"),
    ],
)
def test_a_function_that_can_not_be_used_is_one_clear_error(name, message, module):
    with pytest.raises(UserError, match=message) as caught:
        user_reward(name)
    assert str(caught.value).startswith(f"config.reward.function = {name!r}")


def test_the_papers_rule_is_refused_for_a_data_set_that_it_does_not_have(monkeypatch):
    changed = config("rule=paper")
    with changed.unlocked():
        changed.data.mixture["nowhere"] = 1.0
    with pytest.raises(TaskInputError, match=r"config.reward.rule = 'paper': .*nowhere"):
        check_rewards(changed)


def test_a_folder_keeps_the_hash_of_the_function_and_refuses_another(module, tmp_path):
    folder = tmp_path / "run"
    own = config("function=my_rewards:brief")
    keep_config(own, folder, **KEPT)
    kept = json.loads((folder / FILE).read_text())
    assert kept["reward"]["function"] == "my_rewards:brief"
    assert kept["reward_function_sha256"] == hashlib.sha256(module.read_bytes()).hexdigest()
    check_kept(own, folder, **KEPT)
    module.write_text(module.read_text() + "# changed\n")
    with pytest.raises(UserError, match=r"was made with config.reward_function_sha256 = "):
        check_kept(own, folder, **KEPT)
    with pytest.raises(UserError, match=r"was made with config.reward.function = "):
        check_kept(config(), folder, **KEPT)
    # Rows that are scored again say by what.
    keep_reward(own, folder)
    check_kept(own, folder, **KEPT)
    assert reward_file_hash("my_rewards:brief") == hashlib.sha256(module.read_bytes()).hexdigest()
    keep_reward(config(), folder)
    check_kept(config(), folder, **KEPT)


def test_a_function_of_the_script_that_runs_is_kept_with_the_hash_of_the_script(tmp_path):
    script = tmp_path / "own_run.py"
    script.write_text(
        "from recallm_jax.config.rewards import reward_file_hash\n\n"
        "def score(response, spans, asked):\n    return 1.0\n\n"
        "print(reward_file_hash('__main__:score'))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == hashlib.sha256(script.read_bytes()).hexdigest(), done.stderr


def test_a_folder_of_an_earlier_version_goes_on(tmp_path):
    keep_config(config(), tmp_path, **KEPT)
    kept = json.loads((tmp_path / FILE).read_text())
    del kept["reward"]
    for name in ("system_prompt", "thinking", "traces"):
        del kept["data"][name]
    (tmp_path / FILE).write_text(json.dumps(kept))
    check_kept(config(), tmp_path, **KEPT)
    # It was made with the defaults, and with nothing else.
    with pytest.raises(UserError, match=r"was made with config.reward.density = True, not False"):
        check_kept(config("density=False"), tmp_path, **KEPT)
