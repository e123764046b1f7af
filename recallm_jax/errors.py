"""The error that a job shows to its user, and how a job ends."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from decoding.errors import DecodingInputError
from recallm_jax import peers
from recallm_jax.termination import Terminated
from tasks import storage_faults
from tasks.errors import TaskInputError

EXIT_BAD_INPUT = 2
# As the shell has them: 128 and the number of the signal.
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
_FULL: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}
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


class UserError(Exception):
    """Bad input; one line that says what is wrong, with which value, and how to mend it."""


def run_job(job: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a job on its arguments; return the exit code of the process.

    An error that the user can mend, such as a bucket that can't be reached, is printed as one line,
    `error: …`, and gives code 2. Ctrl-C,
    and SIGTERM where the job handles it, end with one line too, and codes 130 and 143. Anything
    else is a fault of the program and keeps its traceback.

    Args:
      argv: arguments without the program's name; None takes the command line's.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        job(arguments)
    except (UserError, DecodingInputError, TaskInputError, peers.NotJoined) as error:
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
        else:
            message = _of_storage(error, arguments)
    except Exception as error:
        message = _of_storage(error, arguments)
    else:
        return 0
    message = " ".join(message.split())
    print(f"error: {message}", file=sys.stderr)
    peers.leave(EXIT_BAD_INPUT, message)
    return EXIT_BAD_INPUT


def _of_storage(error: Exception, arguments: Sequence[str]) -> str:
    """Return what to say of a fault of gs://; raise any other."""
    message = storage_faults.describe(error, arguments)
    if message is None:
        _leave_after_fault(error)
        raise error
    return message


def _leave_after_fault(error: Exception) -> None:
    """Where other processes wait for this one, show its fault and end all of them."""
    if peers.are_joined():
        traceback.print_exception(error)
        peers.leave(1, f"{type(error).__name__}: {str(error).strip().split(chr(10), 1)[0]}")


def _stopped(how: str, code: int, *, leave: bool) -> int:
    """Say that a signal ended the job; `leave` the process, or return its exit code."""
    print(f"{how}; the same command goes on", file=sys.stderr)
    peers.leave(code, f"{how}; the same command goes on")
    if leave:
        # The job has closed its files. Stopped while it compiles, JAX may crash at Python's exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def full_disk(error: Exception, path: Path) -> OSError | None:
    """Return the full disk that a library reports by an error of its own; None if it is another."""
    text = f"{error} {error.__cause__ or ''}"
    for number in _FULL:
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number), str(path))
    return None


def full_disk_message(error: OSError) -> str:
    """Return what to say of a write that found no space, or no more of the user's share."""
    place = f" while writing {error.filename}" if error.filename else ""
    reason = _FULL[error.errno]
    return f"{reason}{place}; free some space, then start the same command again"
