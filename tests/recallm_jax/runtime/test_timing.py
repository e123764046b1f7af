"""The seconds of a step on a clock that the test moves."""

import jax
import pytest

from recallm_jax.runtime.timing import Stopwatch, is_timing


class Clock:
    """Shows the seconds that it was moved by."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def move(self, seconds):
        self.now += seconds


def test_the_parts_of_a_step_add_up_and_the_whole_step_holds_what_lies_between():
    clock = Clock()
    watch = Stopwatch(clock)
    for seconds in (2.0, 3.0):
        with watch.part("rollout"):
            clock.move(seconds)
        clock.move(0.25)
        with watch.part("reward"):
            clock.move(1.0)
    assert watch.lap() == {"rollout": 5.0, "reward": 2.0, "step": 7.5, "compile": 0.0}


def test_a_step_begins_where_the_one_before_it_ended():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.part("update"):
        clock.move(2.0)
    assert watch.lap() == {"update": 2.0, "step": 2.0, "compile": 0.0}
    # A checkpoint is saved, say.
    clock.move(4.0)
    with watch.part("update"):
        clock.move(1.0)
    assert watch.lap() == {"update": 1.0, "step": 5.0, "compile": 0.0}
    assert watch.lap() == {"step": 0.0, "compile": 0.0}


def compiled(seconds):
    """Tell the listeners what JAX tells them after it has compiled a program."""
    jax.monitoring.record_event_duration_secs(
        "/jax/core/compile/backend_compile_duration", seconds, fun_name="jit(f)"
    )


def test_programs_compiled_within_parts_are_counted():
    watch = Stopwatch()
    for seconds in (2.0, 0.5):
        with watch.part("update"):
            compiled(seconds)
            jax.monitoring.record_event_duration_secs("/jax/core/compile/other", 100.0)
        compiled(30.0)
    assert watch.lap()["compile"] == 2.5
    assert watch.lap()["compile"] == 0.0


def test_jax_tells_of_a_program_that_it_compiles():
    watch = Stopwatch()
    with watch.part("update"):
        jax.jit(lambda x: x + 17)(1.0)
    found = watch.lap()
    assert 0 < found["compile"] < found["update"]


def test_a_part_that_fails_raises_its_error_and_is_not_listened_to_any_more():
    watch = Stopwatch()
    with pytest.raises(KeyError, match="lost"), watch.part("update"):
        raise KeyError("lost")
    compiled(1.0)
    assert watch.lap()["compile"] == 0.0


def test_metrics_that_hold_times_are_told_from_the_others():
    timed = ["time", "seconds_step", "tokens_per_second_update", "mfu_update"]
    assert [name for name in [*timed, "padding", "step", "prompt_tokens"] if is_timing(name)] == (
        timed
    )
