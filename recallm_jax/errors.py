"""The error that a job shows to its user."""


class UserError(Exception):
    """Bad input; one line that says what is wrong, with which value, and how to mend it."""
