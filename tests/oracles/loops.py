"""Tests of many numbers as one test, whose failure names the number."""

import functools
import inspect
from collections.abc import Callable, Iterable


def for_each(name: str, values: Iterable) -> Callable[[Callable], Callable]:
    """Call a test with each value of one of its arguments, in the place of a test for each.

    An exception carries a note with the value at which it was raised. Fixtures are made once, for
    all values.
    """

    def decorate(test: Callable) -> Callable:
        signature = inspect.signature(test)
        others = [value for key, value in signature.parameters.items() if key != name]

        @functools.wraps(test)
        def loop(**fixtures) -> None:
            for value in values:
                try:
                    test(**{name: value}, **fixtures)
                except Exception as error:
                    error.add_note(f"{name} = {value!r}")
                    raise

        loop.__signature__ = signature.replace(parameters=others)
        return loop

    return decorate
