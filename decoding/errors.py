"""The error that callers of `decoding` may show to a user."""

from storage.errors import InputError


class DecodingInputError(InputError):
    """A prompt, a rule or a size that decoding cannot work with; one line: what, value, remedy."""
