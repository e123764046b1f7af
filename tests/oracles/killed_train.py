"""A training run to be killed: `… -m tests.oracles.killed_train FILE POINT COUNT ARGUMENTS…`.

Runs `recallm_jax.train` with the arguments, and says in FILE what it is doing. At the COUNT-th time
that it comes to POINT, its process gets SIGKILL, or the signal that follows the point, as in
"save:SIGTERM"; with the point "none" others are to kill it. The reward is one that a random model
can earn, or GRPO would have nothing to learn. A share of the rewards, SLOW_REWARDS in the
environment, takes five seconds longer; a response's reward may take REWARD_SECONDS. TensorFlow,
which takes seconds to load, is kept out unless the arguments want SeqIO.
"""

import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

from recallm_jax.evaluation import loop
from recallm_jax.policy import checkpoint
from recallm_jax.runtime import metrics
from recallm_jax.training import policy_gradient, rollouts, sft
from rl.rewards import guarded
from storage import files
from tests.oracles import even_tokens

SEQIO = "--config.data.source=seqio"
# The parts of a step in their order, and the moments between.
POINTS = (
    "config",
    "evaluation",
    "rollout",
    "reward",
    "update",
    "metrics",
    "between",
    "save",
    "commit",
)


def die(number: int = signal.SIGKILL) -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), number)
    if number == signal.SIGKILL:
        time.sleep(60)


class Countdown:
    """Kills the process the `count`-th time that `point` is reached; says what is going on."""

    def __init__(self, file: str, point: str, count: int):
        self.file = os.open(file, os.O_WRONLY | os.O_CREAT)
        self.point, _, name = point.partition(":")
        self.signal, self.left = signal.Signals[name or "SIGKILL"], count
        self.doing("start")

    def doing(self, what: str) -> None:
        os.pwrite(self.file, what.ljust(16).encode(), 0)

    def is_due(self, point: str) -> bool:
        if point != self.point:
            return False
        self.left -= 1
        return self.left == 0

    def reach(self, point: str) -> None:
        if self.is_due(point):
            die(self.signal)


def patch(countdown: Countdown) -> None:
    sample, reward = rollouts.decode, even_tokens.rewarding(rollouts.reward_groups)
    updates = {
        (sft, "sft_update"): sft.sft_update,
        (policy_gradient, "policy_update"): policy_gradient.policy_update,
    }
    appending, written_whole = files.appending, files.written_whole
    write, save, rows = metrics.MetricWriter.write, checkpoint.save, loop.response_rows

    def sampled(*arguments, **options):
        countdown.doing("rollout")
        found = sample(*arguments, **options)
        countdown.reach("rollout")
        return found

    def rewarded(*arguments, **options):
        countdown.doing("reward")
        if random.SystemRandom().random() < float(os.environ.get("SLOW_REWARDS", "0")):
            time.sleep(5)
        found = reward(*arguments, **options)
        countdown.reach("reward")
        countdown.doing("update")
        return found

    def updated(update):
        def run(*arguments, **options):
            countdown.doing("update")
            found = update(*arguments, **options)
            countdown.reach("update")
            return found

        return run

    class HalfRow:
        """Adds the first half of the row at which the process is killed."""

        def __init__(self, path):
            self.context = appending(path)

        def __enter__(self):
            add = self.context.__enter__()

            def half(text):
                if countdown.is_due("metrics"):
                    add(text[: len(text) // 2])
                    die()
                add(text)

            return half

        def __exit__(self, *exception):
            return self.context.__exit__(*exception)

    def written(writer, *arguments):
        countdown.doing("metrics")
        write(writer, *arguments)
        countdown.reach("between")

    def saved(manager, *arguments):
        countdown.doing("save")
        # The save before is over, so that what lies there half done is of this one.
        checkpoint.finish(manager)
        save(manager, *arguments)
        countdown.reach("save")
        if countdown.is_due("commit"):
            folder, wait = Path(manager.directory), time.monotonic() + 5
            while not list(folder.glob("*.orbax-checkpoint-tmp*")) and time.monotonic() < wait:
                pass
            die()
        countdown.doing("next step")

    def row(*arguments):
        countdown.doing("evaluation")
        countdown.reach("evaluation")
        return rows(*arguments)

    class Config:
        """Kills after the config is written and before it is renamed."""

        def __init__(self, path, **options):
            self.context, self.path = written_whole(path, **options), path

        def __enter__(self):
            return self.context.__enter__()

        def __exit__(self, *exception):
            if self.path.name == "config.json":
                countdown.reach("config")
            return self.context.__exit__(*exception)

    guarded.SECONDS = float(os.environ.get("REWARD_SECONDS", guarded.SECONDS))
    rollouts.decode, rollouts.reward_groups = sampled, rewarded
    for (module, name), update in updates.items():
        setattr(module, name, updated(update))
    metrics.appending = HalfRow
    metrics.MetricWriter.write = written
    checkpoint.save = saved
    loop.response_rows = row
    files.written_whole = Config


if __name__ == "__main__":
    file, point, count, *arguments = sys.argv[1:]
    assert point.partition(":")[0] in (*POINTS, "none"), point
    if SEQIO not in arguments:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    patch(Countdown(file, point, int(count)))
    sys.argv = ["train", *arguments]
    runpy.run_module("recallm_jax.train", run_name="__main__", alter_sys=True)
