"""The errors that `tasks` raises."""

from storage.errors import InputError


class TaskInputError(InputError):
    """Data or a setting that a task cannot work with. One line: what, the value, the remedy."""


class UnfitRowError(ValueError):
    """A row of a data set that makes no example at this length, although another row may."""


class DemonstrationError(TaskInputError):
    """A demonstration that breaks the rules of recall spans."""
