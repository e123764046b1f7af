"""SIGTERM, which a machine gets before it is taken away: stop without losing anything."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Terminated(BaseException):
    """SIGTERM came. It is not an `Exception`, so that no handler of faults catches it."""


class Termination:
    """Turns SIGTERM into `Terminated`: at once, or at the end of a block that defers it."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take the signal; a handler as `signal.signal` wants it."""
        self.requested = True
        if not self._deferred:
            raise Terminated

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Go on after a signal, until the end of the block or a call of `stop_if_requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.stop_if_requested()

    def stop_if_requested(self) -> None:
        """Raise `Terminated` if the signal has come."""
        if self.requested:
            raise Terminated


@contextlib.contextmanager
def on_sigterm() -> Iterator[Termination]:
    """Handle SIGTERM within the block; restore the previous handler after it."""
    termination = Termination()
    before = signal.signal(signal.SIGTERM, termination.handle)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)
