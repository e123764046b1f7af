"""Seconds of the parts of a step, and the names of the metrics that hold times."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax

# What the names of the metrics begin with: seconds of a part of a step, tokens that it processes a
# second, and its model-FLOPs utilisation.
SECONDS, TOKENS_PER_SECOND, UTILISATION = "seconds_", "tokens_per_second_", "mfu_"
# A whole step; and the seconds of its parts in which programs are compiled, or loaded from JAX's
# cache.
STEP, COMPILE = "step", "compile"
_COMPILED = "/jax/core/compile/backend_compile_duration"


def is_timing(name: str) -> bool:
    """Return whether a field of a metrics row holds a time, in which equal runs differ."""
    return name == "time" or name.startswith((SECONDS, TOKENS_PER_SECOND, UTILISATION))


class Stopwatch:
    """Adds up the seconds of the parts of a step, and of whole steps.

    JAX returns before arrays are computed: a part ends with work that waits for its arrays, such as
    `jax.block_until_ready`, or their time is counted in a later part.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        """Args: clock: returns seconds."""
        self._clock = clock
        self._parts: dict[str, float] = {}
        self._compiling = 0.0
        self._start = clock()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a `with` block to a part, which a profiler's trace shows under the same name."""
        start = self._clock()
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self._listen)
        self._parts[name] = self._parts.get(name, 0.0) + self._clock() - start

    def lap(self) -> dict[str, float]:
        """Return the seconds of the parts and of the whole step, and begin the next step.

        The whole step, "step", begins where the one before it ended, so that the steps add up to
        the time of the run. It is longer than its parts by what lies between them. "compile" is
        the time within the parts in which programs were compiled.
        """
        now = self._clock()
        seconds = {**self._parts, STEP: now - self._start, COMPILE: self._compiling}
        self._parts, self._compiling, self._start = {}, 0.0, now
        return seconds

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """Count an event of JAX's own measurements."""
        del kwargs
        if event == _COMPILED:
            self._compiling += duration_secs
