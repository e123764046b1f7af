"""One process writes a folder: the second is refused, and what a dead one held is taken over."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from storage import sole_writer as locks
from storage.errors import InputError
from storage.files import as_path
from storage.sole_writer import sole_writer

HOLDER = """
import pathlib, sys, time
from storage.sole_writer import sole_writer
with sole_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch):
    """Signs of life every 50 ms, and a process is gone after half a second without one."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "GONE_SECONDS", 0.5)
    monkeypatch.setattr(locks, "_SETTLE_SECONDS", 0.05)


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    if request.param == "local":
        return tmp_path / "run"
    return as_path(request.getfixturevalue("bucket") + "/run")


def write_lock(folder, **changes):
    owner = {"name": "x", "host": "elsewhere", "process": 7, "since": 0.0, "beat": time.time()}
    (folder / locks.FILE).write_text(json.dumps(owner | changes))


def test_a_second_writer_is_refused_with_who_holds_the_folder(folder, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    with sole_writer(folder):
        with pytest.raises(InputError) as refused, sole_writer(folder):
            pass
        message = str(refused.value)
        assert message.startswith(f"{folder} is being written by process {os.getpid()} on ")
        assert message.endswith("; wait until it ends, end it, or give another folder")
        # Another part of the folder is free.
        with sole_writer(folder, by="part"):
            pass
    with sole_writer(folder):
        pass
    assert not folder.exists() or not list(folder.iterdir())


def test_the_lock_ends_with_an_error_and_leaves_nothing(folder):
    with pytest.raises(ZeroDivisionError), sole_writer(folder):
        raise ZeroDivisionError
    assert not folder.exists() or not list(folder.iterdir())


def test_what_was_written_stays(tmp_path):
    with sole_writer(tmp_path / "run"):
        (tmp_path / "run" / "rows").write_text("a")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rows"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_owner_is_gone_and_a_paused_one_is_not(tmp_path, how):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            holder.send_signal(how)
            said = []
            if how == signal.SIGSTOP:
                refused = pytest.raises(InputError, match=f"by process {holder.pid} on ")
                with refused, sole_writer(tmp_path):
                    pass
                return
            holder.wait()
            with sole_writer(tmp_path, say=said.append):
                pass
            (line,) = said
            assert f"was being written by process {holder.pid} on " in line
            assert line.endswith(", which is gone; this process goes on there")
        finally:
            holder.kill()


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_lock_of_a_dead_process_does_no_harm(tmp_path, content):
    (tmp_path / locks.FILE).write_text(content)
    with sole_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_on_gs_an_owner_without_a_sign_of_life_is_gone(bucket, quick):
    folder, said = as_path(f"{bucket}/run"), []
    write_lock(folder, beat=time.time() - 1)
    with sole_writer(folder, say=said.append):
        assert json.loads((folder / locks.FILE).read_text())["process"] == os.getpid()
    assert "process 7 on elsewhere since 1970-01-01 00:00:00 UTC, which is gone" in said[-1]


def test_on_gs_who_comes_soon_after_a_crash_elsewhere_waits_and_goes_on(bucket, quick):
    folder, said = as_path(f"{bucket}/run"), []
    write_lock(folder)
    start = time.monotonic()
    with sole_writer(folder, say=said.append):
        assert time.monotonic() - start >= 0.4
    assert re.search(r"by process 7 on elsewhere since .*: waiting up to \d s for a sign", said[0])
    assert said[1].endswith("which is gone; this process goes on there")


@pytest.mark.parametrize("how", ["local", "elsewhere"])
def test_on_gs_a_job_that_starts_again_after_a_crash_is_not_refused(
    bucket, quick, how, monkeypatch
):
    folder, said = as_path(f"{bucket}/run"), []
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLDER.replace("pathlib.Path(", "as_path(").replace(
                "import pathlib, sys, time", "import sys, time\nfrom storage.files import as_path"
            ),
            str(folder),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
    if how == "local":
        # Without a pause: it is known that the process has ended.
        monkeypatch.setattr(locks, "GONE_SECONDS", 1e6)
    else:
        monkeypatch.setattr(locks, "_machine", lambda: "another")
        monkeypatch.setattr(locks, "GONE_SECONDS", 4.0)
    with sole_writer(folder, say=said.append):
        pass
    assert f"was being written by process {holder.pid} on " in said[-1]
    assert len(said) == (1 if how == "local" else 2)


def test_on_gs_a_damaged_lock_belongs_to_nobody(bucket, quick):
    folder, said = as_path(f"{bucket}/run"), []
    (folder / locks.FILE).write_text("{")
    with sole_writer(folder, say=said.append):
        assert json.loads((folder / locks.FILE).read_text())["process"] == os.getpid()
    assert "which is gone" in said[0] and not (folder / locks.FILE).exists()


def test_where_the_file_system_has_no_locks_the_job_says_so_and_goes_on(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    said = []
    with sole_writer(tmp_path, say=said.append):
        pass
    assert said == [
        f"the file system of {tmp_path} has no locks: see that no other job writes there"
    ]


def test_on_gs_an_owner_that_works_for_long_is_not_taken_for_gone(bucket, quick):
    folder = as_path(f"{bucket}/run")
    with sole_writer(folder):
        time.sleep(1.0)
        with pytest.raises(InputError, match=f"by process {os.getpid()} "), sole_writer(folder):
            pass


def test_on_gs_who_was_taken_over_stops_and_leaves_the_lock(bucket, quick):
    folder = as_path(f"{bucket}/run")
    stopped = pytest.raises(InputError, match="has been taken over by process 7 on elsewhere")
    with stopped, sole_writer(folder):
        write_lock(folder, name="other")
        # The interrupt comes within one beat.
        for _ in range(200):
            time.sleep(0.05)
    assert json.loads((folder / locks.FILE).read_text())["process"] == 7


def test_on_gs_an_interrupt_of_the_user_stays_one(bucket, quick):
    with pytest.raises(KeyboardInterrupt), sole_writer(as_path(f"{bucket}/run")):
        raise KeyboardInterrupt


def test_on_gs_one_of_two_that_come_at_once_gets_the_folder(bucket, quick):
    folder, got = as_path(f"{bucket}/run"), []
    gate = threading.Barrier(4)

    def come():
        gate.wait()
        try:
            with sole_writer(folder):
                got.append("held")
                time.sleep(0.3)
        except InputError:
            got.append("refused")

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held", "refused", "refused", "refused"]
