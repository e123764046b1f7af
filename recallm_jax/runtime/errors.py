"""The error that a job shows to its user, and how a job ends."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import cast

from recallm_jax.runtime import peers
from recallm_jax.runtime.termination import Terminated
from storage import faults
from storage.errors import InputError

EXIT_BAD_INPUT = 2
# From sysexits.h: nothing is wrong with the input, and another attempt may succeed.
EXIT_TRY_AGAIN = 75
# The shell's codes: 128 plus the number of the signal.
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}
# Error numbers of a file system that may pass by themselves.
_PASSING = (
    errno.EIO,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
)
_UNUSABLE_PATH = (
    errno.ENOENT,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


class UserError(InputError):
    """Bad input to a job: an argument, a field of its config, or a file of a run."""


class TryAgain(Exception):
    """Nothing is wrong with the input, and another attempt may succeed; the message is one line."""


def run_job(job: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a job on its arguments; return the exit code of the process.

    An error that the user can mend is printed as one line, `error: …`, and gives code 2. One that
    may pass by itself, such as processes that did not meet or a network that is down, is one line
    and code 75. Ctrl-C, and SIGTERM if the job handles it, end with one line and codes 130 and
    143. Any other error is a fault of the program and keeps its traceback.

    Args:
      argv: arguments without the program's name; None takes those of the command line.
    """
    arguments = sys.argv[1:] if argv is None else argv
    # A process that was started in the background may have been told to ignore Ctrl-C.
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Interrupts().handle)
    code = EXIT_BAD_INPUT
    try:
        job(arguments)
    except (peers.NotReached, TryAgain) as error:
        message, code = str(error), EXIT_TRY_AGAIN
    except (InputError, peers.NotJoined) as error:
        message = str(error)
    except KeyboardInterrupt:
        return _stopped("interrupted", EXIT_INTERRUPTED, leave=argv is None)
    except Terminated:
        return _stopped("terminated", EXIT_TERMINATED, leave=argv is None)
    except OSError as error:
        if error.errno in _FULL:
            message = full_disk_message(error)
        elif error.errno in _UNUSABLE_PATH and error.filename:
            reason = os.strerror(error.errno).lower()
            message = f"{error.filename} can't be used ({reason}); give another path, or mend it"
        elif error.errno in _PASSING and faults.kind(error) is None:
            reason = os.strerror(error.errno).lower()
            place = error.filename or "a file"
            message = (
                f"{place} can't be read or written now ({reason}); start the same command again"
            )
            code = EXIT_TRY_AGAIN
        else:
            message, code = _of_storage(error, arguments)
    except Exception as error:
        message, code = _of_storage(error, arguments)
    else:
        return 0
    message = " ".join(message.split())
    print(f"error: {message}", file=sys.stderr)
    peers.leave(code, message)
    return code


class _Interrupts:
    """Ctrl-C: the first stops the job, the second lets it close its files, the third ends it."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take the signal; a handler as `signal.signal` wants it."""
        self.count += 1
        if self.count == 1:
            raise KeyboardInterrupt
        if self.count > 2:
            os._exit(EXIT_INTERRUPTED)


def _of_storage(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """Return the message of a fault of gs://, and the exit code; raise any other error."""
    message = faults.describe(error, arguments)
    if message is None:
        _leave_after_fault(error)
        raise error
    passes = faults.kind(error) == faults.NETWORK
    return message, EXIT_TRY_AGAIN if passes else EXIT_BAD_INPUT


def _leave_after_fault(error: Exception) -> None:
    """Show a fault and end all processes, if others wait for this one."""
    if peers.are_joined():
        traceback.print_exception(error)
        peers.leave(1, f"{type(error).__name__}: {str(error).strip().split(chr(10), 1)[0]}")


def _stopped(how: str, code: int, *, leave: bool) -> int:
    """Say that a signal ended the job; `leave` the process, or return its exit code."""
    if leave:
        # The job is ending: Ctrl-C after SIGTERM would only break its last line.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(f"{how}; the same command goes on", file=sys.stderr)
    peers.leave(code, f"{how}; the same command goes on")
    if leave:
        # The job has closed its files. Stopped while it compiles, JAX may crash at Python's exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def full_disk(error: Exception, path: Path) -> OSError | None:
    """Return the `OSError` of a full disk that a library reports by its own error, or None."""
    text = f"{error} {error.__cause__ or ''}"
    for number in _FULL:
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number), str(path))
    return None


def full_disk_message(error: OSError) -> str:
    """Return the message for a write that found the disk or the user's share of it full."""
    place = f" while writing {error.filename}" if error.filename else ""
    # Callers ask only about errors that have one of these numbers.
    reason = _FULL[cast(int, error.errno)]
    return f"{reason}{place}; free some space, then start the same command again"
