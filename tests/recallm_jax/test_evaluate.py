"""The evaluate job's own arguments."""

import json
import os
import subprocess
import sys

import pytest

from recallm_jax import evaluate

CONFIG = "--config=configs/quickstart.py:tiny"


@pytest.mark.parametrize("label", ["..", ".", "a/b", "a/"])
def test_a_label_that_leaves_the_folder_of_evaluations_is_refused(label, tmp_path, capsys):
    assert evaluate.main([CONFIG, f"--workdir={tmp_path}", f"--label={label}"]) == 2
    error = capsys.readouterr().err
    assert f"error: --label={label} must be the name of a folder, without a path" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge"], "--merge needs --label: the folder of WORKDIR/eval that it is about"),
        (["--rescore"], "--rescore needs --label"),
        (["--label=a", "--rescore", "--merge"], "in one process; leave --merge out"),
        (["--label=a", "--merge", "--checkpoints=all"], "of one label, in one process; leave"),
        (["--label=a", "--rescore", "--shard=0/2"], "leave --shard out"),
        (["--merge", "--label=x"], "holds no shards; evaluate with --shard=i/n first"),
        (["--shard=2/2"], "--shard=2/2 must be i/n with i from 0 to n - 1"),
        (["--label=x", "--checkpoints=all"], "--label=x is of one policy; those of --checkpoints"),
        (["--checkpoints=all"], "holds no checkpoint; train first"),
        (["--checkpoints=start,grpo/7"], "has no checkpoint 'grpo/7'; it has start"),
    ],
)
def test_arguments_that_say_nothing_are_refused(arguments, message, tmp_path, capsys):
    assert evaluate.main([CONFIG, f"--workdir={tmp_path}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_saved_rows_are_scored_again_where_there_is_no_device(tmp_path):
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
            *(sys.executable, "-m", "recallm_jax.evaluate", CONFIG, f"--workdir={tmp_path}"),
            *("--label=grpo", "--rescore"),
        ],
        # Whoever asks JAX for a device fails.
        env={**os.environ, "JAX_PLATFORMS": "none"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (scored,) = map(json.loads, (folder / "x.x.jsonl").read_text().splitlines())
    assert scored["exact_match"] == 1.0 and 0 < scored["reward"] <= 1
    assert "100.0 %" in done.stdout
