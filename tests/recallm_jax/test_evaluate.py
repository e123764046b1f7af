"""The evaluate job: its own arguments, and its use of the checkpoints of a run."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from recallm_jax import evaluate
from recallm_jax.policy import tiny
from tests.oracles.tiny_run import CONFIG

# TensorBoard's writer and Orbax warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("label", ["..", ".", "a/b", "a/"])
def test_a_label_outside_the_folder_of_evaluations_is_refused(label, tmp_path, capsys):
    assert evaluate.main([*CONFIG, f"--workdir={tmp_path}", f"--label={label}"]) == 2
    error = capsys.readouterr().err
    assert f"error: --label={label} must be the name of a folder, without a path" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge"], "--merge needs --label: the name of a folder in "),
        (["--rescore"], "--rescore needs --label"),
        (["--label=a", "--rescore", "--merge"], "in one process; leave --merge out"),
        (["--label=a", "--merge", "--checkpoints=all"], "of one label, in one process; leave"),
        (["--label=a", "--rescore", "--shard=0/2"], "leave --shard out"),
        (["--merge", "--label=x"], "holds no shards; evaluate with --shard=i/n first"),
        (["--shard=2/2"], "--shard=2/2 must be i/n with i from 0 to n - 1"),
        (["--label=x", "--checkpoints=all"], "--label=x names one policy; leave it out, as"),
        (["--checkpoints=all"], "holds no checkpoint; train first"),
        (["--checkpoints=start,grpo/7"], "has no checkpoint 'grpo/7'; it has start"),
        (["--label=x", "--rescore"], "holds no rows; evaluate first"),
        ([], "holds no checkpoint of the stages"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, tmp_path, capsys):
    assert evaluate.main([*CONFIG, f"--workdir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_saved_rows_are_scored_again_without_a_device(tmp_path):
    row = {
        **dict.fromkeys(("example_id", "task", "label", "mode", "prompt"), "x"),
        "dataset": "retrieval",
        "completion": "</think>\nAnswer: ab12",
        **dict.fromkeys(("target_length", "completion_tokens", "exact_match", "reward"), 9),
        "finished": True,
        **dict.fromkeys(("span_starts", "span_ends"), 0),
        "ground_truth": {"answers": ["ab12"], "gold_documents": []},
        "spans": [],
    }
    folder = tmp_path / "eval" / "grpo"
    folder.mkdir(parents=True)
    (folder / "x.x.jsonl").write_text(json.dumps(row) + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "recallm_jax.evaluate", *CONFIG, f"--workdir={tmp_path}"),
            *("--label=grpo", "--rescore"),
        ],
        # Asking JAX for a device raises.
        env={**os.environ, "JAX_PLATFORMS": "none"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (scored,) = map(json.loads, (folder / "x.x.jsonl").read_text().splitlines())
    assert scored["exact_match"] == 1.0 and 0 < scored["reward"] <= 1
    assert "100.0 %" in done.stdout


def test_saved_completions_are_scored_again_without_a_model(copied_run, capsys):
    folder = copied_run / "eval" / "grpo"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    arguments = [*CONFIG, f"--workdir={copied_run}", "--label=grpo", "--rescore"]
    assert evaluate.main(arguments) == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert "exact match" in capsys.readouterr().out


def test_a_reward_that_fails_for_one_data_set_leaves_all_saved_scores(
    copied_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "picky_rewards.py").write_text(
        "def score(response, spans, asked):\n"
        "    if asked.truth.dataset == 'retrieval':\n        raise RuntimeError('no table')\n"
        "    return 0.125\n"
    )
    folder = copied_run / "eval" / "grpo"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    arguments = [*CONFIG, f"--workdir={copied_run}", "--label=grpo", "--rescore"]
    assert evaluate.main([*arguments, "--config.reward.function=picky_rewards:score"]) == 2
    assert "no reward (RuntimeError: no table)" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_an_evaluation_goes_on_where_it_stopped(copied_run):
    folder = copied_run / "eval" / "grpo"
    (path,) = folder.glob("recallm_retrieval_*.jsonl")
    rows = path.read_text()
    first, second = rows.splitlines(keepends=True)
    path.write_text(first + second[:40])
    assert evaluate.main([*CONFIG, f"--workdir={copied_run}"]) == 0
    assert path.read_text() == rows


def test_a_prompt_without_all_its_responses_is_evaluated_again(copied_run):
    sampled = [*CONFIG, "--config.evaluation.modes=('constrained-sampled',)"]
    arguments = [*sampled, "--config.evaluation.samples=3", f"--workdir={copied_run}"]
    assert evaluate.main([*arguments, "--label=sampled"]) == 0
    folder = copied_run / "eval" / "sampled"
    (path,) = folder.glob("recallm_retrieval_*-sampled.jsonl")
    rows = path.read_text()
    lines = rows.splitlines(keepends=True)
    assert len(lines) == 6
    path.write_text("".join(lines[:4]))
    assert evaluate.main([*arguments, "--label=sampled"]) == 0
    assert path.read_text() == rows


def test_a_summary_of_fewer_prompts_keeps_the_rows_of_the_others(trained_run, copied_run):
    fewer = ["--config.evaluation.num_examples=1", f"--workdir={copied_run}"]
    assert evaluate.main([*CONFIG, *fewer]) == 0
    summary = json.loads((copied_run / "eval" / "grpo" / "summary.json").read_text())
    assert [row["n"] for row in summary] == [1, 1]
    for path in (copied_run / "eval" / "grpo").glob("*.jsonl"):
        assert path.read_text() == (trained_run / "eval" / "grpo" / path.name).read_text()


def test_a_policy_in_the_middle_of_its_stage_has_a_label_of_its_own(copied_run, capsys):
    shutil.rmtree(copied_run / "checkpoints" / "grpo" / "2")
    before = (copied_run / "eval" / "grpo" / "summary.json").read_text()
    assert evaluate.main([*CONFIG, f"--workdir={copied_run}"]) == 0
    assert (copied_run / "eval" / "grpo_step1" / "summary.json").exists()
    # Rows are never added to those of another policy.
    assert evaluate.main([*CONFIG, f"--workdir={copied_run}", "--label=grpo"]) == 2
    error = capsys.readouterr().err
    assert "was made with policy = 'grpo step 2', not 'grpo step 1'" in error
    assert (copied_run / "eval" / "grpo" / "summary.json").read_text() == before


def test_checkpoints_are_compared_in_one_table(copied_run, capsys):
    folder = copied_run / "checkpoints" / "grpo"
    # One checkpoint is damaged, and its evaluation is lost; the run is writing another.
    (folder / "2" / "metadata" / "metadata").write_text("{")
    shutil.rmtree(copied_run / "eval" / "grpo")
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(copied_run.glob("checkpoints/**/*"))
    names = "--checkpoints=start,sft2/2,grpo/2,grpo/1"
    arguments = [*CONFIG, f"--workdir={copied_run}", names]
    assert evaluate.main(arguments) == 2
    told = capsys.readouterr()
    found = re.search(r"error: 1 not evaluated: grpo/2: checkpoint (\S+) can't be read", told.err)
    assert found and found[1] == str(folder / "2")
    assert "start: all rows are there\ncold_start: all rows are there\n" in told.out
    table = told.out.rpartition("\n\n")[2].splitlines()[1:]
    labels = ["start", "cold_start", "grpo_step1"]
    rows, means = table[:6], table[6:]
    assert [line.split()[:2] for line in rows] == [
        [label, f"{task}_val_256"] for task in ("math_retrieval", "retrieval") for label in labels
    ]
    assert [line.partition(": ")[0] for line in means] == labels
    said = r".*: averages of 2 data sets, \d+ questions, constrained-greedy: grand "
    assert all(re.match(said, line) for line in means)
    made = json.loads((copied_run / "eval" / "grpo_step1" / "config.json").read_text())
    assert made["policy"] == "grpo step 1"
    assert sorted(copied_run.glob("checkpoints/**/*")) == before
    # Without the damaged checkpoint nothing is left to do, for a shard neither.
    names = "--checkpoints=grpo/1,start"
    assert evaluate.main([*CONFIG, f"--workdir={copied_run}", names, "--shard=1/2"]) == 0
    assert "start: all rows are there" in capsys.readouterr().out


def test_a_checkpoint_of_another_model_is_refused(copied_run, capsys, monkeypatch):
    wider = dataclasses.replace(tiny.TINY, mlp_dim=96)
    monkeypatch.setattr(tiny, "TINY", wider)
    assert evaluate.main([*CONFIG, f"--workdir={copied_run}"]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"error: checkpoint \S+/grpo/2 is of another model or stage: \S*down\S* is "
        r"float32\[2,128,64\] in it, but float32\[2,96,64\] in this run; choose another --workdir",
        error,
    )
