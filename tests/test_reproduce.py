"""The commands of docs/reproduce.md work one after the other; test_readme.py parses each."""

import json
import pathlib
import re
import shlex

import pytest

from configs import common
from recallm_jax import compare, evaluate, probe, report, train
from recallm_jax.config.kept import MAY_CHANGE, keep_config
from recallm_jax.config.load import load_config
from recallm_jax.config.rewards import check_rewards
from recallm_jax.evaluation.files import HELD
from storage.files import as_path
from tests.oracles.helmet_files import kv_row, write
from tests.recallm_jax.data.test_released import retrieval

TEXT = pathlib.Path("docs/reproduce.md").read_text(encoding="utf-8")
SETTINGS = [text for text in re.findall(r"`(--config[^`]*)`", TEXT) if "=" in text]
JOBS = {"train": train, "evaluate": evaluate, "probe": probe, "compare": compare, "report": report}
COMMANDS = [
    (match[1], shlex.split(match[2]))
    for match in re.finditer(r"^python -m recallm_jax\.(\w+) (.*)$", TEXT, re.MULTILINE)
]
LABELS = {"start": "start", "sft2/57": "cold_start", "grpo/150": "grpo"}


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_fit_the_training_config(settings):
    assert len(SETTINGS) >= 4
    check_rewards(load_config(["--config=configs/qwen2_5_7b.py", *shlex.split(settings)]))


def value(arguments, name):
    return next((one.partition("=")[2] for one in arguments if one.startswith(f"--{name}=")), "")


def test_no_command_adds_to_the_results_of_another_config(tmp_path):
    checked = 0
    for job, arguments in COMMANDS:
        if job not in ("train", "evaluate"):
            continue
        config = load_config([one for one in arguments if one.startswith("--config")])
        workdir = tmp_path / value(arguments, "workdir")
        if job == "train":
            keep_config(config, as_path(workdir), may_change=MAY_CHANGE, remedy="")
            labels = list(LABELS.values())
        elif names := value(arguments, "checkpoints"):
            labels = [LABELS[name] for name in names.split(",")]
        else:
            labels = [value(arguments, "label")]
        results = tmp_path / (value(arguments, "results") or value(arguments, "workdir"))
        for label in labels:
            keep_config(config, as_path(results / "eval" / label), **HELD)
            checked += 1
    assert checked >= 7 * 3 + 6


def test_an_evaluation_of_a_suite_has_no_other_tasks_and_one_mode():
    for name, (suites, _, _) in common.EXPERIMENTS.items():
        config = load_config([f"--config=configs/qwen2_5_7b.py:experiment={name}"])
        assert config.evaluation.modes == ("constrained-sampled",)
        assert any(config.data.mixture.values()) == (not suites)
    assert (config.evaluation.temperature, config.evaluation.top_p) == (0.6, 0.95)
    assert config.decoding.max_new_tokens == config.model.extra_positions == 10_240


# Tasks and lengths for which a folder of a few made-up rows will do.
SMALL = {
    "ruler": ["--config.evaluation.lengths=1536"],
    "helmet": [
        "--config.evaluation.suites=helmet_json_kv_chat",
        "--config.evaluation.lengths=8192",
    ],
    "datasets": ["--config.evaluation.lengths=4096", "--config.data.mixture.math_retrieval=0"],
}
RULER = {"ruler_chat": "ruler_vt_chat", "ruler": "ruler_vt"}


def tiny(arguments, folder):
    """Return a command's arguments for a tiny model, with files and folders in `folder`."""
    changed, experiment = [], ""
    for one in arguments:
        name, equals, text = one.partition("=")
        if name == "--config":
            file, _, variant = text.partition(":")
            experiment = variant.partition("=")[2]
            text = f"{file}:{','.join(filter(None, ('tiny', variant)))}"
        elif name == "--config.data.dir":
            text = str(folder / "data")
        elif name == "--config.data.source":
            text = f"release:{folder / 'released'}"
        elif name == "--config.evaluation.suites":
            text = RULER[text]
        elif name == "--checkpoints":
            text = "start,sft2/2,grpo/2"
        one = f"{name}{equals}{text}".replace("runs/", f"{folder}/runs/")
        changed.append(one)
    if experiment == "ruler" and not value(arguments, "config.evaluation.suites"):
        changed.append(f"--config.evaluation.suites={RULER['ruler_chat']}")
    return changed + SMALL.get(experiment, [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_training_evaluations_and_probes_work_one_after_the_other(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write(tmp_path / "data" / "json_kv" / "test_k105_dep6.jsonl", map(kv_row, range(4)))
    write(tmp_path / "released" / "retrieval" / "val_4k.jsonl", map(retrieval, range(4)))
    ablation = next(n for n, (_, given) in enumerate(COMMANDS) if "runs/no_retrieval" in str(given))
    done = []
    for job, arguments in COMMANDS[:ablation]:
        code = JOBS[job].main(tiny(arguments, tmp_path))
        assert code == 0, (job, arguments, capsys.readouterr().err)
        done.append(job)
    assert (done[0], done[-1]) == ("train", "compare")
    assert sorted(done[1:-1]) == ["compare", *["evaluate"] * 4, *["probe"] * 3, "report"]
    run = tmp_path / "runs" / "recallm"
    found = {
        path.parent.relative_to(run).as_posix(): {
            (row["task"], row["mode"]) for row in json.loads(path.read_text())
        }
        for path in run.rglob("summary.json")
        if "probe" not in path.parts
    }
    ruler = {("ruler_vt_chat_1536", "constrained-sampled")}
    own = {
        (f"recallm_{name}_val_256", "constrained-sampled")
        for name in ("retrieval", "math_retrieval")
    }
    assert found == {
        **dict.fromkeys(("eval/start", "eval/cold_start", "eval/grpo"), own),
        **dict.fromkeys((f"ruler/eval/{label}" for label in LABELS.values()), ruler),
        "helmet/eval/grpo": {("helmet_json_kv_chat_8k", "constrained-sampled")},
        "datasets/eval/grpo": {("recallm_retrieval_val_4k", "constrained-sampled")},
        "ruler_plain/eval/start": {("ruler_vt_1536", "unconstrained-greedy")},
    }
    assert {path.name for path in (run / "probe").iterdir()} == {"start", "grpo"}
    page = (run / "ruler" / "report.html").read_text()
    assert "after GRPO" in page and "after cold start" in page
