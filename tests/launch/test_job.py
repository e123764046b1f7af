"""job.sh on one worker, with real small jobs: what is started again, what isn't, what is kept."""

import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time

import aiohttp
import pytest

SCRIPT = pathlib.Path("launch/job.sh").resolve()


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker("stop", "--grace=1")


class Worker:
    """A worker whose home is a folder; jobs are lines of shell."""

    def __init__(self, home: pathlib.Path):
        self.home = home

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "HOSTNAME": "w-0", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [SCRIPT, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def start(self, shell: str, *flags: str) -> None:
        """Start a job; each attempt adds a line to `attempts`, and $N is its number."""
        counted = f"cd {self.home}; echo x >>attempts; N=$(wc -l <attempts); {shell}"
        done = self("start", "--pause=0", *flags, "--", "bash", "-c", counted)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "worker=w-0 started\n"

    def attempts(self) -> int:
        path = self.home / "attempts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def state(self) -> str:
        return self("status").stdout.partition(" command=")[0]

    def wait_for(self, *states: str) -> str:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if (state := self.state()).split()[1] in {f"state={name}" for name in states}:
                return state
            time.sleep(0.02)
        pytest.fail(f"{state}, not {states}")

    def wait_for_attempts(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while self.attempts() < count and time.monotonic() < deadline:
            time.sleep(0.02)

    def log(self) -> str:
        return (self.home / "recallm-jax-job" / "log").read_text()


def test_without_a_job(worker):
    assert worker.state() == "worker=w-0 state=none code=- restarts=0"
    assert worker("stop").stdout == "worker=w-0 no job runs\n"


def test_a_job_that_is_done_is_not_started_again(worker):
    worker.start("echo out; echo err >&2")
    assert worker.wait_for("ended") == "worker=w-0 state=ended code=0 restarts=0"
    assert worker.attempts() == 1
    assert "\nout\nerr\n" in worker.log()


@pytest.mark.parametrize("code", [2, 130])
def test_bad_input_and_an_interruption_are_not_tried_again(worker, code):
    worker.start(f"exit {code}")
    assert worker.wait_for("ended") == f"worker=w-0 state=ended code={code} restarts=0"
    assert worker.attempts() == 1


def test_a_terminated_job_starts_again_however_often(worker):
    worker.start("((N > 5)) || exit 143", "--restarts=1")
    assert worker.wait_for("ended") == "worker=w-0 state=ended code=0 restarts=5"
    assert worker.attempts() == 6


def test_a_job_that_ends_by_the_signal_itself_starts_again(worker):
    worker.start("((N > 1)) || kill -TERM $$")
    assert worker.wait_for("ended") == "worker=w-0 state=ended code=0 restarts=1"


@pytest.mark.parametrize("how", ["exit 1", "kill -KILL $$"])
def test_a_crash_starts_the_job_again_a_few_times(worker, how):
    worker.start(how, "--restarts=2")
    code = 1 if "exit" in how else 137
    assert worker.wait_for("ended") == f"worker=w-0 state=ended code={code} restarts=2"
    assert worker.attempts() == 3
    assert "no further restart: it crashed 3 times" in worker.log()


def test_a_pause_lies_between_two_attempts(worker):
    worker.start("exit 1", "--pause=60")
    assert worker.wait_for("pausing") == "worker=w-0 state=pausing code=1 restarts=1"
    assert worker.attempts() == 1
    assert worker("stop").stdout == "worker=w-0 stopped\n"
    assert worker.state() == "worker=w-0 state=stopped code=1 restarts=1"


def test_only_one_job_runs(worker):
    worker.start("sleep 60")
    done = worker("start", "--", "true")
    assert done.returncode == 2
    assert done.stderr.startswith("error: worker w-0: a job runs already (bash -c ")
    assert "launch/tpu_vm.sh stop" in done.stderr


def test_a_job_that_lost_its_loop_still_holds_the_worker(worker):
    worker.start("sleep 60")
    worker.wait_for_attempts(1)
    pid = int((worker.home / "recallm-jax-job" / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    assert worker("start", "--", "true").returncode == 2
    assert worker("stop", "--grace=0").stdout == "worker=w-0 killed after 0 s\n"
    worker.start("true")
    worker.wait_for("ended")


def test_stop_lets_the_job_save_and_does_not_start_it_again(worker):
    worker.start("trap 'echo saved >saved; exit 143' TERM; touch ready; sleep 60 & wait")
    while not (worker.home / "ready").exists():
        time.sleep(0.02)
    assert worker("stop").stdout == "worker=w-0 stopped\n"
    assert (worker.home / "saved").exists()
    assert worker.state() == "worker=w-0 state=stopped code=143 restarts=0"
    assert worker.attempts() == 1


def test_stop_kills_a_job_that_does_not_end(worker):
    worker.start("trap '' TERM; touch ready; while :; do sleep 1; done")
    while not (worker.home / "ready").exists():
        time.sleep(0.02)
    assert worker("stop", "--grace=1").stdout == "worker=w-0 killed after 1 s\n"
    assert worker.state() == "worker=w-0 state=stopped code=137 restarts=0"
    worker.start("true")


def test_a_machine_that_shuts_down_is_told_from_a_stop(worker):
    worker.start("trap 'exit 143' TERM; touch ready; sleep 60 & wait")
    while not (worker.home / "ready").exists():
        time.sleep(0.02)
    os.kill(int((worker.home / "recallm-jax-job" / "pid").read_text()), signal.SIGTERM)
    assert worker.wait_for("ended") == "worker=w-0 state=ended code=143 restarts=0"
    assert worker.attempts() == 1


def test_a_machine_that_restarted_is_told_from_a_job_that_runs(worker):
    worker.start("sleep 60")
    worker.wait_for_attempts(1)
    kept = worker.home / "recallm-jax-job"
    for name in ("pid", "child"):
        os.killpg(int((kept / name).read_text()), signal.SIGKILL)
    assert worker.wait_for("dead") == "worker=w-0 state=dead code=- restarts=0"


def test_processes_that_a_job_leaves_are_ended_before_the_next_attempt(worker):
    worker.start("sleep 60 & echo $! >>left; ((N > 1))", "--restarts=1")
    worker.wait_for("ended")
    for pid in (worker.home / "left").read_text().split():
        assert not pathlib.Path(f"/proc/{pid}").exists() or "Z" in stat(pid)


def stat(pid: str) -> str:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_log_of_the_job_before_is_kept(worker):
    worker.start("echo first")
    worker.wait_for("ended")
    worker.start("echo second")
    worker.wait_for("ended")
    assert "\nsecond\n" in worker.log()
    assert "\nfirst\n" in (worker.home / "recallm-jax-job" / "log.1").read_text()


def test_the_job_outlives_the_connection(worker):
    """`start` returns at once, and nothing of the job holds its output open."""
    began = time.monotonic()
    worker.start("sleep 60")
    assert time.monotonic() - began < 10
    loop = int((worker.home / "recallm-jax-job" / "pid").read_text())
    assert os.getsid(loop) == loop


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["begin"],
        ["start", "true"],
        [
            "start",
            "--",
        ],
    ],
)
def test_bad_arguments(worker, arguments):
    done = worker(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: worker w-0: ") and done.stderr.count("\n") == 1


@pytest.fixture
def check(monkeypatch, capsys):
    """The real check, in this process: its exit code, and what it said."""

    def run(folder) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check_workdir.py", str(folder)])
        code = runpy.run_path("launch/check_workdir.py")["main"]()
        return code, capsys.readouterr().err

    return run


def test_check_writes_where_the_job_will_and_leaves_nothing(tmp_path, bucket, gcs, check):
    assert check(tmp_path / "runs" / "a") == (0, "")
    assert list((tmp_path / "runs" / "a").iterdir()) == []
    assert check(f"{bucket}/runs/a") == (0, "")
    name = bucket.removeprefix("gs://")
    assert any(verb == "POST" and f"/{name}/" in path for verb, path in gcs.requests)
    assert gcs.names(name) == []


@pytest.mark.parametrize("where", ["/b/{}", "/upload/"])
def test_check_finds_that_the_bucket_may_not_be_used(bucket, gcs, check, where):
    gcs.faults[where.format(bucket.removeprefix("gs://"))] = [403, None]
    code, said = check(f"{bucket}/runs/a")
    assert code == 1 and said.count("\n") == 1
    assert "403" in said or "Forbidden" in said


def test_check_tells_a_network_that_is_down_apart(monkeypatch, check):
    def unreachable(url):
        raise aiohttp.ClientConnectionError("Cannot connect to host storage.googleapis.com")

    monkeypatch.setattr("fsspec.core.url_to_fs", unreachable)
    assert check("gs://b/runs/a")[0] == 75


def test_check_tells_a_missing_bucket_apart(gcs, check):
    assert check("gs://nowhere-2/runs/a")[0] == 3
