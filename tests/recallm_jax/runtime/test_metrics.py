"""Metrics survive restarts without doubled rows, and need neither clu nor TensorFlow."""

import builtins
import json

import jax.numpy as jnp
import pytest

from recallm_jax.runtime import metrics
from recallm_jax.runtime.errors import UserError, full_disk_message
from recallm_jax.runtime.metrics import MetricWriter, format_metrics, read_metrics


@pytest.fixture
def without_tensorflow(monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.partition(".")[0] in ("tensorflow", "clu"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


def steps(path, stage):
    return [row["step"] for row in read_metrics(path) if row["stage"] == stage]


@pytest.mark.usefixtures("without_tensorflow")
def test_rows_are_json_with_stage_step_and_time(tmp_path, capsys):
    with MetricWriter(tmp_path) as writer:
        writer.write("grpo", 3, {"reward": jnp.float32(0.25), "kl": 1e-7})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row.pop("time") > 1e9
    assert row == {"stage": "grpo", "step": 3, "reward": 0.25, "kl": 1e-7}
    captured = capsys.readouterr()
    assert captured.out == "grpo 3: reward 0.25  kl 1.000e-07\n"
    assert captured.err.startswith("note: no TensorBoard files are written (No module named 'tens")


@pytest.mark.usefixtures("without_tensorflow")
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


@pytest.mark.usefixtures("without_tensorflow")
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


def test_tensorboard_gets_the_scalars(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write("grpo", 0, {"reward": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"grpo/reward" in events.read_bytes()


def test_a_disk_that_tensorboard_finds_full_is_reported_once(tmp_path, monkeypatch):
    class Full:
        def write_scalars(self, step, scalars):
            raise RuntimeError("events.out; No space left on device\n\tCould not flush events file")

        def close(self):
            pytest.fail("a writer that failed is used again")

    monkeypatch.setattr(metrics, "summary_writer", lambda folder: Full())
    with pytest.raises(OSError) as caught, MetricWriter(tmp_path) as writer:
        writer.write("grpo", 0, {"reward": 0.5})
    assert full_disk_message(caught.value).startswith(
        f"the disk is full while writing {tmp_path / 'tensorboard'}; free some space"
    )


def test_another_error_of_tensorboard_is_raised_unchanged(tmp_path, monkeypatch):
    class Broken:
        def close(self):
            raise RuntimeError("a fault")

    monkeypatch.setattr(metrics, "summary_writer", lambda folder: Broken())
    with pytest.raises(RuntimeError, match="a fault"):
        MetricWriter(tmp_path).close()


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_numbers_stay_readable():
    text = format_metrics({"a": 0.0, "b": 12345.678, "c": -2e-6, "d": float("nan")})
    assert text == "a 0  b 1.235e+04  c -2.000e-06  d nan"
