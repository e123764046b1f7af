"""The job that compares runs: its tables, its picture, and mistakes in one line."""

import json

import pytest

from recallm_jax import compare
from tests.oracles.fake_run import write_run


def test_two_settings_are_printed_and_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name, gain in (("a", 0.2), ("b", 0.3), ("c", 0.0)):
        write_run(tmp_path / name, examples=2, reward_gain=gain)
    named = [f"--run={name}={tmp_path / run}" for name, run in (("X", "a"), ("X", "b"), ("Y", "c"))]
    figure = tmp_path / "drawn" / "compare.png"
    assert compare.main([*named, f"--figure={figure}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["X", "2", "60"] and lines[2].split()[:3] == ["Y", "1", "60"]
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_a_trained_run_is_compared(trained_run, capsys):
    assert compare.main([f"--run=A={trained_run}"]) == 0
    _, steps, _, _, answers = (line.split() for line in capsys.readouterr().out.splitlines())
    assert steps == ["A", "1", "2", "too", "few", "steps"]
    # Greedy answers by the first and the last policy to two prompts of each of two data sets.
    assert answers[:3] == ["A", "constrained-greedy", "4"]


def test_folders_of_evaluations_alone_are_compared_by_their_scores(tmp_path, capsys):
    for name in ("a", "b"):
        write_run(tmp_path / name, examples=2)
    (tmp_path / "b" / "metrics.jsonl").unlink()
    named = [f"--run=A={tmp_path / 'a'}", f"--run=B={tmp_path / 'b'}"]
    assert compare.main(named) == 0
    rewards, scores = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in rewards.splitlines()] == ["setting", "A"]
    assert [line.split()[0] for line in scores.splitlines()] == ["setting", "A", "A", "B", "B"]
    assert compare.main(named[1:]) == 0
    assert capsys.readouterr().out.startswith("setting  decoding")
    assert compare.main([*named[1:], f"--figure={tmp_path / 'x.png'}"]) == 2
    assert "none of the runs has any" in capsys.readouterr().err


def test_the_probes_of_several_policies_are_one_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name, accuracy in (("a", 0.9), ("b", 0.4)):
        rows = [
            {"label": "start", "variant": variant, "reasoning_tokens": tokens}
            | {"target_length": 256, "n": 10, "right": int(10 * accuracy), "accuracy": accuracy}
            | {"low": accuracy - 0.1, "high": accuracy + 0.1, "spans": 0, "verbatim_spans": 0}
            for variant in ("thought", "recall")
            for tokens in (64, 128)
        ]
        folder = tmp_path / name / "probe" / "start"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(rows))
    named = [f"--run=Base={tmp_path / 'a'}", f"--run=RecaLLM={tmp_path / 'b'}"]
    figure = tmp_path / "probes.png"
    assert compare.main([*named, f"--probes={figure}"]) == 0
    told = capsys.readouterr().out
    assert "Base" in told and "RecaLLM" in told and "40.0 %" in told
    assert figure.read_bytes()[:4] == b"\x89PNG"
    write_run(tmp_path / "c", examples=2)
    assert compare.main([f"--run=C={tmp_path / 'c'}", f"--probes={figure}"]) == 2
    assert "none of the runs has a probe" in capsys.readouterr().err


def test_policies_are_compared_by_length(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "a", examples=2)
    figure = tmp_path / "lengths.png"
    named = [f"--run=before={tmp_path / 'a'}@start", f"--run=after={tmp_path / 'a'}"]
    assert compare.main([*named, f"--lengths={figure}"]) == 0
    told = capsys.readouterr().out
    assert "after, constrained-greedy" in told and "retrieval" in told and "640" in told
    assert figure.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run=here"], "--run=here names no setting or no folder; write --run=NAME=FOLDER"),
        (["--run=A={folder}/none"], "holds neither metrics.jsonl nor"),
        (["--run=A={folder}/sft"], "sft has no step of grpo or ppo; train it further, or leave"),
        ([], "the following arguments are required: --run"),
        (["--run=A={folder}/sft", "--figure=a.docx"], "must end in a kind of picture"),
        (["--run=A={folder}/sft", "--lengths=a.png"], "sft@: the run has no evaluation"),
        (["--run=A={folder}/sft@", "--lengths=a.png"], "names no policy after @"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "sft").mkdir()
    rows = [{"stage": "sft2", "step": step, "time": 1.0, "reward": 0.1} for step in range(6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "sft" / "metrics.jsonl").write_text(text)
    assert compare.main([text.format(folder=tmp_path) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
