"""Rewards that may fail: one that raises, hangs or leaves [0, 1] spoils no batch."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rl.rewards.composite import Completion, Reward
from tasks.scoring.reward import RewardSettings
from tasks.scoring.truth import GroundTruth

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
        with _time_limit(SECONDS) as in_time:
            reward = score(completion, truth, settings)
        # It may have caught what told it to stop.
        if not in_time():
            return f"no reward within {SECONDS:g} seconds"
        if not (math.isfinite(reward.total) and 0 <= reward.total <= 1):
            return f"a reward of {reward.total} is not in [0, 1]"
    # It may be anyone's code.
    except (Exception, OutOfTime) as error:
        reason = str(error).strip().splitlines()
        return f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
    return reward


class OutOfTime(BaseException):
    """No `Exception`, so that a reward that catches all of these does not catch this."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[Callable[[], bool]]:
    """Stop the block after so many seconds; yield a function that tells whether it was in time."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: True
        return
    rung = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal rung
        rung = True
        raise OutOfTime(f"no reward within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    # Again each second: a reward may swallow the first in a bare `except`.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield lambda: not rung
    finally:
        # It may ring right here.
        with contextlib.suppress(OutOfTime):
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
