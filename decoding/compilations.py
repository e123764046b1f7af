"""Counting the programs that JAX compiles."""

import contextlib
from collections.abc import Callable, Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def count_compilations(*functions: Callable) -> Iterator[Callable[[], int]]:
    """Count the programs that are compiled for jitted functions while the block runs.

    Functions are told apart by their names. One that is called by another jitted function is part
    of that function's program, and does not count.

    Yields:
      A function that returns the number so far.
    """
    names = {f"jit({function.__name__})" for function in functions}
    count = 0

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        nonlocal count
        count += event == _COMPILED and kwargs.get("fun_name") in names

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
