"""The base of all errors that a user can mend."""


class InputError(ValueError):
    """Bad input; its message is one line that says what is wrong, with which value, and the remedy.

    Jobs print it as `error: …` and exit with code 2 (`recallm_jax/runtime/errors.py`).
    """
