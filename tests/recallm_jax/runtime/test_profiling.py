"""Which steps `--profile` names, and when a trace of them is recorded."""

import contextlib
import errno
import re

import jax
import pytest

from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.profiling import profiled_steps, traced

STAGES = {"sft1": 4, "sft2": 12, "grpo": 60}


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ("", {}),
        ("3", {"sft1": range(3, 4)}),
        ("4", {"sft2": range(1)}),
        ("17:19", {"grpo": range(1, 3)}),
        # Steps of two stages.
        ("2:5", {"sft1": range(2, 4), "sft2": range(1)}),
        ("75", {"grpo": range(59, 60)}),
        ("grpo:0", {"grpo": range(1)}),
        ("sft2:3:12", {"sft2": range(3, 12)}),
    ],
)
def test_the_option_names_steps_of_the_run_or_of_a_stage(given, steps):
    assert profiled_steps(given, STAGES) == steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("x", "--profile=x does not name steps; give one such as 3, a range such as 3:5"),
        ("-1", "--profile=-1 does not name steps"),
        ("1:2:3", "--profile=1:2:3 does not name steps"),
        ("ppo:3", "--profile=ppo:3: this run has no stage 'ppo'; give one of sft1, sft2, grpo"),
        ("76", "--profile=76 is no range of steps of the run, which has 76, from 0 to 75; "),
        ("5:3", "--profile=5:3 is no range of steps of the run, "),
        ("5:5", "--profile=5:5 is no range of steps of the run, "),
        ("sft1:4", "is no range of steps of the stage sft1, which has 4, from 0 to 3; "),
        ("sft1:2:5", "is no range of steps of the stage sft1, which has 4, from 0 to 3; "),
    ],
)
def test_a_value_that_names_no_steps_is_refused(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        profiled_steps(given, STAGES)


@pytest.fixture
def events(monkeypatch):
    """The starts and ends of traces, in the place of the profiler."""
    found = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda folder, **options: found.append(("start", folder))
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    return found


def test_a_trace_begins_before_its_first_step_and_ends_after_its_last(events, tmp_path):
    folder = tmp_path / "profile"
    for step in traced(range(6), range(2, 4), "grpo", folder):
        events.append(step)
    assert events == [0, 1, ("start", str(folder)), 2, 3, "stop", 4, 5]
    assert folder.is_dir()


def test_a_run_that_resumes_within_the_range_records_the_rest(events, tmp_path):
    for step in traced(range(3, 6), range(2, 5), "grpo", tmp_path):
        events.append(step)
    assert events == [("start", str(tmp_path)), 3, 4, "stop", 5]


def test_steps_that_are_not_asked_for_leave_no_trace_and_no_folder(events, tmp_path):
    assert list(traced(range(3), range(0), "grpo", tmp_path / "profile")) == [0, 1, 2]
    assert list(traced(range(3, 5), range(2), "grpo", tmp_path / "profile")) == [3, 4]
    assert events == [] and not (tmp_path / "profile").exists()


def test_a_trace_is_written_when_the_run_stops_within_it(events, tmp_path):
    with contextlib.closing(traced(range(6), range(2, 5), "grpo", tmp_path)) as steps:
        for step in steps:
            if step == 3:
                break
        assert events == [("start", str(tmp_path))]
    assert events[1:] == ["stop"]


def test_a_full_disk_is_raised_as_the_systems_own_error(events, tmp_path, monkeypatch):
    def full():
        raise RuntimeError("could not write: No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        list(traced(range(1), range(1), "grpo", tmp_path))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
