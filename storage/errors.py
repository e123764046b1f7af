"""The base class of all errors that a user can fix."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, the value, and the remedy.

    Jobs print it as `error: …` and exit with code 2 (`recallm_jax/runtime/errors.py`).
    """


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Begin the message of an `InputError` with its place, such as a file and a line."""
    try:
        yield
    except InputError as error:
        error.args = (f"{place}: {error}",)
        raise
