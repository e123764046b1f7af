"""Metrics survive restarts without doubled rows; TensorBoard is not needed, and says the same."""

import builtins
import errno
import io
import json
import os

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing import event_accumulator

from recallm_jax.runtime import metrics
from recallm_jax.runtime.errors import UserError, full_disk_message
from recallm_jax.runtime.metrics import MetricWriter, format_metrics, read_metrics
from recallm_jax.runtime.tensorboard import Point
from tests.oracles.event_files import curves


@pytest.fixture
def without_tensorboard(monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.partition(".")[0] == "tensorboard":
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


def steps(path, stage):
    return [row["step"] for row in read_metrics(path) if row["stage"] == stage]


@pytest.mark.usefixtures("without_tensorboard")
def test_rows_are_json_with_stage_step_and_time(tmp_path, capsys):
    with MetricWriter(tmp_path) as writer:
        writer.write("grpo", 3, {"reward": jnp.float32(0.25), "kl": 1e-7})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row.pop("time") > 1e9
    assert row == {"stage": "grpo", "step": 3, "reward": 0.25, "kl": 1e-7}
    captured = capsys.readouterr()
    assert captured.out == "grpo 3: reward 0.25  kl 1.000e-07\n"
    assert captured.err.startswith("note: no TensorBoard files are written (No module named 'tens")


@pytest.mark.usefixtures("without_tensorboard")
def test_a_restart_writes_no_step_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(tmp_path) as writer:
        for step in range(3):
            writer.write("sft1", step, {"loss": 1.0})
        for step in range(5):
            writer.write("grpo", step, {"loss": 1.0})
    with MetricWriter(tmp_path) as writer:
        writer.resume("grpo", 3)
        assert steps(path, "grpo") == [0, 1, 2]
        writer.write("grpo", 3, {"loss": 2.0})
    assert steps(path, "grpo") == [0, 1, 2, 3]
    assert steps(path, "sft1") == [0, 1, 2]


@pytest.mark.usefixtures("without_tensorboard")
def test_a_row_cut_short_is_dropped_on_restart(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "grpo", "step": 0, "time": 1.5}\n{"stage": "grpo", "st')
    with MetricWriter(tmp_path) as writer:
        writer.resume("grpo", 1)
        writer.write("grpo", 1, {})
    assert steps(path, "grpo") == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"garbage", "Expecting value"),
        (b'{"step": 1, "time": 2.0}', "it has no 'stage'"),
        (b'{"stage": "grpo", "step": "1", "time": 2.0}', "'step' can't be '1'"),
        (b'{"stage": "grpo\xff", "step": 1, "time": 2.0}', "can't decode byte 0xff"),
        (b"5", "'5' is not a row"),
    ],
)
def test_a_damaged_row_is_named(line, message, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"stage": "grpo", "step": 0, "time": 1.5}\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_metrics(path)
    assert str(caught.value).startswith(f"{path}, line 2 is damaged (")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; delete that line, or the file")


def curves_of_rows(path):
    found = {}
    for row in read_metrics(path):
        for name in row.keys() - {"stage", "step", "time"}:
            point = (row["step"], pytest.approx(row[name], rel=1e-6))
            found.setdefault(f"{row['stage']}/{name}", []).append(point)
    return found


def test_tensorboard_says_what_the_rows_say_at_every_moment(tmp_path):
    folder, path = tmp_path / "tensorboard", tmp_path / "metrics.jsonl"
    with MetricWriter(tmp_path) as writer:
        for step in range(5):
            writer.write("sft2", step, {"loss": 2.0 - step / 3})
        # Nothing is closed yet, as after a kill.
        assert curves(folder) == curves_of_rows(path) and len(curves(folder)["sft2/loss"]) == 5
    with MetricWriter(tmp_path) as writer:
        writer.resume("sft2", 3)
        writer.write("sft2", 3, {"loss": 7.5})
        writer.resume("grpo", 0)
        writer.write("grpo", 0, {"reward": 0.5, "kl": 1e-9})
        assert curves(folder) == curves_of_rows(path)
    assert curves(folder) == curves_of_rows(path)
    assert [step for step, _ in curves(folder)["sft2/loss"]] == [0, 1, 2, 3]
    assert len(list(folder.iterdir())) == 1


def test_rows_that_tensorboard_never_got_are_there_after_the_next_start(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"stage": "grpo", "step": 0, "time": 1.0, "kl": 2.5}\n'
    )
    MetricWriter(tmp_path).close()
    assert curves(tmp_path / "tensorboard") == {"grpo/kl": [(0, 2.5)]}


def test_an_open_tensorboard_forgets_the_steps_that_are_made_again(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(4):
            writer.write("grpo", step, {"reward": 0.0})
    opened = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    opened.Reload()
    with MetricWriter(tmp_path) as writer:
        writer.resume("grpo", 2)
        writer.write("grpo", 2, {"reward": 1.0})
        opened.Reload()
        seen = [(event.step, event.value) for event in opened.Scalars("grpo/reward")]
    assert seen == [(0, 0.0), (1, 0.0), (2, 1.0)]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with MetricWriter(tmp_path) as writer:
        monkeypatch.setattr(writer._events, "_file", Full())
        with pytest.raises(OSError) as caught:
            writer.write("grpo", 0, {"reward": 0.5})
        monkeypatch.undo()
    assert full_disk_message(caught.value).startswith("the disk is full; free some space")


def test_a_fault_at_the_restart_is_the_one_that_is_raised(tmp_path, monkeypatch):
    with MetricWriter(tmp_path) as writer:
        writer.write("grpo", 0, {"reward": 0.5})

    def full(folder, points):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"), MetricWriter(tmp_path) as writer:
        monkeypatch.setattr(metrics, "event_file", full)
        writer.resume("grpo", 0)


def test_a_tracker_gets_the_steps_and_the_evaluations(tmp_path):
    class Tracker:
        def __init__(self):
            self.points, self.closed = [], False

        def add(self, point):
            self.points.append((point.step, dict(point.values)))

        def close(self):
            self.closed = True

    tracker = Tracker()
    with MetricWriter(tmp_path, tracker) as writer:
        writer.write("grpo", 2, {"reward": 0.5})
        writer.track(Point(9, 1.0, {"evaluation/a/exact_match": 1.0}))
    assert tracker.points == [(2, {"grpo/reward": 0.5}), (9, {"evaluation/a/exact_match": 1.0})]
    assert tracker.closed


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_numbers_stay_readable():
    text = format_metrics({"a": 0.0, "b": 12345.678, "c": -2e-6, "d": float("nan")})
    assert text == "a 0  b 1.235e+04  c -2.000e-06  d nan"
