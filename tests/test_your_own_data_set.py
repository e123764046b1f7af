"""The page about a data set of one's own: its script and its command do what the page says."""

import json
import pathlib
import re
import runpy
import shlex
import sys

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.metrics import read_metrics
from tasks.datasets import registry
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tests.oracles.task_checks import check_demonstration_is_right, check_fit, check_record

# TensorBoard's writer and Orbax warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = pathlib.Path("docs/your_own_data_set.md")
TOKENIZER = tiny_tokenizer()


def block(language: str) -> str:
    """Return the page's only block of a language."""
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.fixture
def script(tmp_path, monkeypatch) -> pathlib.Path:
    path = tmp_path / "bins.py"
    path.write_text(block("python"), encoding="utf-8")
    for name in registry.DATASETS:
        monkeypatch.setitem(registry.DATASETS, name, registry.DATASETS[name])
    yield path
    registry.DATASETS.pop("bins", None)


def test_the_script_trains_on_its_data_set(script, tmp_path, monkeypatch, capsys):
    program, name, *arguments = shlex.split(block("sh").replace("\\\n", " "))
    assert (program, name) == ("python", script.name)
    run = tmp_path / "run"
    arguments = [argument.replace("runs/bins", str(run)) for argument in arguments]
    # These parts take the time, and are tested elsewhere.
    arguments += ["--config.evaluation.num_examples=1", "--config.evaluation.batch_size=1"]
    arguments += ["--config.evaluation.modes=constrained-greedy", "--config.stages=('grpo',)"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().err
    stages = [row["stage"] for row in read_metrics(run / "metrics.jsonl")]
    assert stages == ["grpo"] * 2
    (summary,) = json.loads((run / "eval" / "grpo" / "summary.json").read_text())
    assert summary["dataset"] == "bins"
    assert list(summary["metrics"]) == ["exact_match", "points"]
    kept = json.loads((run / "config.json").read_text())
    assert kept["data"]["mixture"]["bins"] == 1.0


def test_its_examples_pass_the_checks_of_every_data_set(script):
    bins = runpy.run_path(str(script))["BINS"]
    registry.register(bins)
    wanted = TaskSettings(500)
    for index in range(4):
        assert check_fit(bins.draft(wanted, "train", 0, index, 0), TOKENIZER, 500) > 5
        example = record("bins", TOKENIZER, wanted, "train", 0, index)
        check_record(example, TOKENIZER, 500)
        check_demonstration_is_right(example, TOKENIZER)


def test_its_share_is_a_field_only_after_it_is_registered(script):
    share = "--config.data.mixture.bins"
    quickstart = "--config=configs/quickstart.py:tiny"
    with pytest.raises(UserError, match=r"mixture\.bins is not a field; .*once a script registers"):
        load_config([quickstart, f"{share}=2"])
    registry.register(runpy.run_path(str(script))["BINS"])
    assert "bins" not in load_config([quickstart]).data.mixture
    config = load_config([quickstart, f"{share}=2"])
    assert config.data.mixture["bins"] == 2.0 and config.is_locked
    for value, message in (("all", "has the wrong type; give float"), ("-1", "out of bounds")):
        with pytest.raises(UserError, match=message):
            load_config([quickstart, f"{share}={value}"])
