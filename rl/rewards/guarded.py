"""Rewards that may fail: one that raises, hangs or leaves [0, 1] spoils no batch."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rl.rewards.categories import GroundTruth, RewardSettings
from rl.rewards.composite import Completion, Reward

# A reward takes a millisecond; math-verify's own limit is a few seconds.
SECONDS = 30.0
Score = Callable[[Completion, GroundTruth, RewardSettings], Reward]


def guarded(
    score: Score, completion: Completion, truth: GroundTruth, settings: RewardSettings
) -> Reward | str:
    """Return the reward, or in a few words why there is none.

    A reward that takes longer than `SECONDS` is given up, where this runs in the main thread.
    """
    try:
        with _time_limit(SECONDS):
            reward = score(completion, truth, settings)
    # It may be anyone's code.
    except Exception as error:
        reason = str(error).strip().splitlines()
        return f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
    if not (math.isfinite(reward.total) and 0 <= reward.total <= 1):
        return f"a reward of {reward.total} is not in [0, 1]"
    return reward


class _OutOfTimeError(Exception):
    pass


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _OutOfTimeError(f"no reward within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
