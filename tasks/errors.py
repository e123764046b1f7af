"""The error that callers of `tasks` may show to a user."""


class TaskInputError(ValueError):
    """Data or a setting that a task cannot work with; one line: what, value, remedy."""
