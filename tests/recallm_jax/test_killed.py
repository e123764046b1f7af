"""SIGKILL at any instant: the same command ends with the same parameters, metrics and rows."""

import collections
import json
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from recallm_jax.training.restore import CHECKPOINTS
from tests.oracles import killed_train
from tests.oracles.killed_runs import STEPS, Run, assert_same, results

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
# Kills during training steps; those before and after come on top.
KILLS = 20
IN_STEPS = ("rollout", "reward", "update", "metrics", "save", "next step")
_STEP = re.compile(rf"({'|'.join(STEPS)}) \d+: ")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def whole(scratch):
    """The results of a run that is not interrupted."""
    run = Run(scratch / "whole", scratch / "cache", scratch)
    run.finish()
    found = results(run.workdir)
    rewards = [row for row in found["metrics"] if row["stage"] == "grpo"]
    # Otherwise the last stage would learn nothing, and the test would prove nothing.
    assert all(row["groups_with_spread"] > 0 and row["grad_norm"] > 1e-4 for row in rewards)
    return found


def kill_at_random(run: Run, rng: random.Random) -> str | None:
    """Start a run and kill it after a random time; return what it was doing, None if it ended."""
    process = run.start()
    assert process.stdout is not None
    # Mostly in the first steps, so that many kills fit into a run; sometimes before them.
    steps, delay = rng.choice([0, 1, 1, 1, 2, 2]), rng.random()
    try:
        seen = 0
        for line in process.stdout if steps else ():
            seen += _STEP.match(line) is not None
            if seen == steps:
                break
        # A step takes about half a second, the start before the first one several seconds.
        time.sleep(delay * (0.6 if steps else 8.0))
        doing = run.doing()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        drained = threading.Thread(target=process.stdout.read)
        drained.start()
        code = process.wait(timeout=1800)
        drained.join()
        assert code in (0, -signal.SIGKILL)
        return doing if code else None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_killed_twenty_times_at_random_ends_as_if_uninterrupted(whole, scratch, capsys):
    seed = random.SystemRandom().randrange(1 << 16)
    rng = random.Random(seed)
    kills: collections.Counter[str] = collections.Counter()
    runs = 0
    while sum(kills[doing] for doing in IN_STEPS) < KILLS:
        run = Run(scratch / f"random_{runs}", scratch / "cache", scratch)
        while (doing := kill_at_random(run, rng)) is not None:
            kills[doing] += 1
        runs += 1
        assert_same(results(run.workdir), whole)
    with capsys.disabled():
        print(f"\nseed {seed}: {kills.total()} kills in {runs} runs: {dict(kills)}")


@pytest.mark.parametrize("point", killed_train.POINTS)
def test_a_run_killed_at_a_point_ends_as_if_uninterrupted(point, whole, scratch):
    run = Run(scratch / point, scratch / "cache", scratch)
    # The first evaluation's config; the second task with its rows; all else is in GRPO, which comes
    # after 7 steps and 4 saves.
    early = {"config": 2, "evaluation": 3, "rollout": 3, "reward": 3, "save": 6, "commit": 6}
    count = early.get(point, 10)
    # The metrics are up to a step ahead of the checkpoint.
    every_two = "--config.checkpoint.every_steps=2"
    process = run.start(point, count, every_two)
    out, _ = process.communicate(timeout=1800)
    assert process.returncode == -signal.SIGKILL, out[-3000:]
    if point == "commit":
        assert list(Path(run.workdir, CHECKPOINTS, "grpo").glob("*.orbax-checkpoint-tmp*"))
    run.finish("none", 1, every_two)
    found = results(run.workdir)
    # The config differs from that of the uninterrupted run in this field only.
    config = json.loads(found["files"]["/config.json"])
    assert config["checkpoint"].pop("every_steps") == 2
    found["files"] = {n: c for n, c in found["files"].items() if not n.endswith("config.json")}
    wanted = {n: c for n, c in whole["files"].items() if not n.endswith("config.json")}
    assert_same(found, whole | {"files": wanted})


def test_a_killed_run_that_reads_from_seqio_reads_on_where_it_stopped(whole, scratch):
    runs = [Run(scratch / f"seqio_{name}", scratch / "cache", scratch) for name in ("whole", "cut")]
    runs[0].finish("none", 1, killed_train.SEQIO)
    for point, count in (("update", 3), ("rollout", 4)):
        process = runs[1].start(point, count, killed_train.SEQIO)
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == -signal.SIGKILL, out[-3000:]
    runs[1].finish("none", 1, killed_train.SEQIO)
    read, cut = (results(run.workdir) for run in runs)
    assert_same(cut, read)
    # The stream must differ from the one without SeqIO, or this would test nothing.
    assert read["metrics"] != whole["metrics"]
