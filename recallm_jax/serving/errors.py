"""The error of a request that can't be answered as it is."""


class BadRequest(Exception):
    """The request is wrong; the message names the field, and `param` is its name."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param
