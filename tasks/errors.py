"""The errors of `tasks`."""

from storage.errors import InputError


class TaskInputError(InputError):
    """Data or a setting that a task cannot work with; one line: what, value, remedy."""


class UnfitRowError(ValueError):
    """A row of a data set that makes no example at this length; another one may."""


class DemonstrationError(TaskInputError):
    """A demonstration that breaks the rules of recall spans."""
