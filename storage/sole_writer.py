"""One process writes a folder: it holds the folder's lock, and another process is refused.

In a local folder the lock is the kernel's, which ends with the process however it ends; a file
system that knows no locks holds nobody off, which is said in a line. On gs:// the lock
is an object that its owner writes anew every `BEAT_SECONDS`; one that has not been written for
`GONE_SECONDS`, or whose owner was a process of this machine that has ended, belongs to nobody. Who
comes before that waits for a sign of life. In both, the file says who holds it.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO

from storage.errors import InputError
from storage.files import Path, is_remote, make_folder, store

FILE = "writer.lock"
BEAT_SECONDS, GONE_SECONDS = 15.0, 90.0
# The most by which the clocks of two machines differ.
_CLOCKS_APART = 600.0
# Two processes that take over at once see each other after this time.
_SETTLE_SECONDS = 2.0
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
      since, beat: when it took the lock, and when it last said that it lives; seconds since 1970.
      machine: where the process number counts, as `_machine` names it; "" if unknown.
    """

    name: str
    host: str
    process: int
    since: float
    beat: float
    machine: str = ""

    def __str__(self) -> str:
        since = datetime.datetime.fromtimestamp(self.since, datetime.UTC)
        return f"process {self.process} on {self.host} since {since:%Y-%m-%d %H:%M:%S} UTC"

    def as_json(self) -> str:
        """Return the owner as the text of a lock's file."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


@contextlib.contextmanager
def sole_writer(folder: Path, *, say: Say = print, by: str = "") -> Iterator[None]:
    """Hold a folder's lock for the block; the folder is made if it is missing.

    If another process takes the lock over, because this one was paused for so long that it seemed
    gone, the block is interrupted.

    Args:
      say: takes a line if the lock of a process that is gone is taken over.
      by: names the part of the folder that is written, if others may write other parts.

    Raises:
      InputError: another process holds the lock, or has taken it over.
    """
    new = not is_remote(folder) and not folder.exists()
    make_folder(folder)
    path = folder / (f"{FILE}.{by}" if by else FILE)
    held = _remote(folder, path, say) if is_remote(folder) else _local(folder, path, say)
    try:
        with held:
            yield
    finally:
        if new:
            # It stays if anything was written.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _me() -> Owner:
    now = time.time()
    return Owner(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now, now, _machine())


def _machine() -> str:
    """Name this start of the machine and its process numbers, of this container; "" if hidden."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _has_ended(owner: Owner) -> bool:
    """Return whether the owner was a process of this machine, and is no more."""
    if not owner.machine or owner.machine != _machine():
        return False
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # It is there, and another user's.
        return False
    return False


def _read(text: str) -> Owner | None:
    """Return the owner in a lock's file; None if it is empty or cut off."""
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _refusal(folder: Path, owner: Owner | None) -> InputError:
    who = f"by {owner}" if owner else "by another process"
    return InputError(
        f"{folder} is being written {who}; wait until it ends, end it, or give another folder"
    )


def _gone(folder: Path, owner: Owner) -> str:
    return f"{folder} was being written by {owner}, which is gone; this process goes on there"


@contextlib.contextmanager
def _local(folder: Path, path: Path, say: Say) -> Iterator[None]:
    with _locked(folder, path, say) as file:
        if owner := _read(file.read()):
            say(_gone(folder, owner))
        file.seek(0)
        file.truncate()
        file.write(_me().as_json())
        file.flush()
        try:
            yield
        finally:
            # Before the lock ends: who opens the path from now on makes a new file.
            with contextlib.suppress(OSError):
                path.unlink()


def _locked(folder: Path, path: Path, say: Say) -> IO[str]:
    """Return the lock's file, open and locked if its file system can do that."""
    while True:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open(path, "a+", encoding="utf-8"))
            file.seek(0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _refusal(folder, _read(file.read())) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                say(f"the file system of {folder} has no locks: see that no other job writes there")
            # Its former owner may have deleted it in between.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                opened.pop_all()
                return file


@contextlib.contextmanager
def _remote(folder: Path, path: Path, say: Say) -> Iterator[None]:
    me = _me()
    _take(folder, path, me, say)
    ended, taken_over = threading.Event(), threading.Event()
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            # A fault of the network passes, or the job meets it itself.
            with contextlib.suppress(Exception):
                owner = _stored(path)
                if owner is not None and owner.name != me.name:
                    taken_over.set()
                    signal.pthread_kill(main_thread, signal.SIGINT)
                    return
                _store(path, dataclasses.replace(me, beat=time.time()))

    thread = threading.Thread(target=beat, name="writer lock", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not taken_over.is_set():
            raise
        raise InputError(
            f"{folder} has been taken over by {_stored(path)}, because this process gave no sign "
            f"of life for {GONE_SECONDS:.0f} seconds; this one stops"
        ) from None
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):
            if (owner := _stored(path)) is not None and owner.name == me.name:
                store(path).rm_file(str(path))


def _take(folder: Path, path: Path, me: Owner, say: Say) -> None:
    """Make the object of the lock, or replace that of a process which is gone.

    Raises:
      InputError: another process holds the lock.
    """
    owner = _stored(path)
    if owner is not None:
        if not _has_ended(owner):
            _wait_for_sign(folder, path, owner, say)
        say(_gone(folder, owner))
        with contextlib.suppress(FileNotFoundError):
            store(path).rm_file(str(path))
    try:
        store(path).pipe_file(str(path), me.as_json().encode(), mode="create")
    except FileExistsError:
        raise _refusal(folder, _stored(path)) from None
    if owner is not None:
        # Another process may have found the same owner gone, and deleted what is there now.
        time.sleep(_SETTLE_SECONDS)
        if (stored := _stored(path)) is None or stored.name != me.name:
            raise _refusal(folder, stored)


def _wait_for_sign(folder: Path, path: Path, owner: Owner, say: Say) -> None:
    """Return when an owner has given no sign of life for long enough, or has let go.

    Raises:
      InputError: it lives.
    """
    age = time.time() - owner.beat
    left = min(GONE_SECONDS, GONE_SECONDS - age)
    if age < _CLOCKS_APART:
        # Its clock may be late.
        left = max(left, 2 * BEAT_SECONDS)
    if left > 0:
        most = math.ceil(left)
        say(f"{folder} is being written by {owner}: waiting up to {most} s for a sign of life")
    until = time.monotonic() + left
    while time.monotonic() < until:
        time.sleep(min(BEAT_SECONDS / 10, left))
        stored = _stored(path)
        if stored is None or _has_ended(stored):
            return
        if stored != owner:
            raise _refusal(folder, stored)


def _stored(path: Path) -> Owner | None:
    """Return the owner in a lock's object; None if there is no object."""
    try:
        text = store(path).cat_file(str(path)).decode(errors="replace")
    except FileNotFoundError:
        return None
    # A damaged object has no owner who lives.
    return _read(text) or Owner("", "an unknown host", 0, 0.0, 0.0)


def _store(path: Path, owner: Owner) -> None:
    store(path).pipe_file(str(path), owner.as_json().encode())
