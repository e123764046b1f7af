"""A soak: runs that are disturbed all the time end with the bits of one that was not.

`SOAK_MINUTES=60 make test-slow` makes it long. Each start of a run meets one of the events below,
at a random time, until the run is done. Then the next run begins, by turns in a local folder and in
a bucket of an emulator. All the while the rewards of some responses hang, and are given up.
"""

import collections
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from tests.oracles.killed_runs import STEPS, Run, assert_same, results

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
HANGING = ("none", "1", "--config.reward.function=tests.oracles.hanging_reward:score")
MINUTES = float(os.environ.get("SOAK_MINUTES", "5"))
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
# The code with which a start may end after each event; 0 if it was done before.
CODES = {
    "killed": {-signal.SIGKILL},
    "terminated": {143},
    "interrupted": {130},
    # The second one may be first to write.
    "second process": {2},
    "short fault of storage": set(),
    "long fault of storage": {75},
}


class Reader(threading.Thread):
    """Reads what a process prints, so that it never waits; counts its steps."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process, self.lines, self.steps = process, [], 0
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self.steps += line.startswith(tuple(f"{stage} " for stage in STEPS)) and ": " in line

    @property
    def text(self) -> str:
        return "".join(self.lines)


def wait_for(reader: Reader, steps: int, seconds: float) -> None:
    """Wait until a process has made some steps, or ended; then some seconds more."""
    while reader.steps < steps and reader.process.poll() is None:
        time.sleep(0.02)
    until = time.monotonic() + seconds
    while time.monotonic() < until and reader.process.poll() is None:
        time.sleep(0.02)


def disturb(event: str, run: Run, reader: Reader, rng: random.Random, gcs) -> None:
    process = reader.process
    if event in SIGNALS:
        if process.poll() is None:
            process.send_signal(SIGNALS[event])
    elif event == "second process":
        if process.poll() is None:
            code, out = run.ended(*HANGING)
            # The first may have ended while the second one started.
            assert code in (0, 2), out[-2000:]
            assert code == 0 or "is being written" in out or process.poll() is not None
    elif event == "short fault of storage":
        gcs.faults["/o"] = [rng.choice([429, 500, 503]) for _ in range(rng.randrange(1, 4))]
    else:
        gcs.faults["/o"] = [503, None]
        time.sleep(rng.uniform(5, 60))
        gcs.faults.clear()


def start_once(run: Run, rng: random.Random, gcs, *, remote: bool) -> tuple[str, bool]:
    """Start a run, and disturb it; return what happened and whether the run is done."""
    event = rng.choice([*CODES] if remote else [*SIGNALS, "second process"])
    run.phase.unlink(missing_ok=True)
    process = run.start(*HANGING)
    reader = Reader(process)
    try:
        if event in ("terminated", "interrupted"):
            # While Python imports the program, a signal meets Python alone.
            while run.doing() == "start" and process.poll() is None:
                time.sleep(0.02)
        wait_for(reader, rng.choice([0, 1, 2, 3, 5]), rng.uniform(0, 2))
        disturb(event, run, reader, rng, gcs)
        code = process.wait(timeout=1800)
        reader.join()
    finally:
        gcs.faults.clear()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert code in CODES[event] | {0}, f"{event}: {code}\n{reader.text[-3000:]}"
    assert code != 2 or "is being written" in reader.text, reader.text[-3000:]
    assert "Traceback" not in reader.text, reader.text[-3000:]
    return event, code == 0


def test_a_disturbed_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path, gcs, bucket, capsys, monkeypatch
):
    monkeypatch.setenv("REWARD_SECONDS", "3")
    whole = Run(tmp_path / "whole", tmp_path / "cache", tmp_path)
    whole.finish(*HANGING)
    wanted = results(whole.workdir)
    hung = sum(row.get("without_reward", 0) for row in wanted["metrics"])
    assert hung > 0
    monkeypatch.setenv("SLOW_REWARDS", "0.05")
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(1 << 16)))
    rng, events, runs = random.Random(seed), collections.Counter(), 0
    start = time.monotonic()
    while time.monotonic() < start + 60 * MINUTES:
        remote = bool(runs % 2)
        folder = f"{bucket}/run_{runs}" if remote else tmp_path / f"run_{runs}"
        run, done = Run(folder, tmp_path / "cache", tmp_path), False
        while not done:
            event, done = start_once(run, rng, gcs, remote=remote)
            events[event] += 1
        assert_same(results(run.workdir), wanted)
        runs += 1
    minutes = (time.monotonic() - start) / 60
    with capsys.disabled():
        print(
            f"\nseed {seed}, {minutes:.0f} minutes, {runs} runs, in each {hung:g} rewards hang: "
            f"{dict(events)}"
        )
