"""The base class of all errors that a user can fix."""


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, the value, and the remedy.

    Jobs print it as `error: …` and exit with code 2 (`recallm_jax/runtime/errors.py`).
    """
