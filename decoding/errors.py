"""The error that callers of `decoding` may show to a user."""


class DecodingInputError(ValueError):
    """A prompt, a rule or a size that decoding cannot work with; one line: what, value, remedy."""
