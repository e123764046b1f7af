"""Rewards that may fail: one that raises, hangs or leaves [0, 1] does not stop a batch."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rl.rewards.composite import Reward

# A reward takes a millisecond; math-verify's own limit is a few seconds.
SECONDS = 30.0


def guarded(reward_of: Callable[[], Reward]) -> Reward | str:
    """Return the reward, or the reason in a few words why there is none.

    In the main thread, a reward that takes longer than `SECONDS` is stopped.
    """
    try:
        with _time_limit(SECONDS) as in_time:
            reward = reward_of()
        # The reward may have caught the exception that was to stop it.
        if not in_time():
            return f"no reward within {SECONDS:g} seconds"
        if not (math.isfinite(reward.total) and 0 <= reward.total <= 1):
            return f"a reward of {reward.total} is not in [0, 1]"
    # A reward may be any user's code.
    except (Exception, SystemExit, OutOfTime) as error:
        reason = str(error).strip().splitlines()
        return f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
    return reward


class OutOfTime(BaseException):
    """A reward has run out of time. Not an `Exception`, so that its own `except` lets it pass."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[Callable[[], bool]]:
    """Stop the block after `seconds`; yield a function that tells if it was in time."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: True
        return
    rung = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal rung
        rung = True
        raise OutOfTime(f"no reward within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    # The alarm repeats each second: a bare `except` may catch the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield lambda: not rung
    finally:
        # The alarm may ring at this point.
        with contextlib.suppress(OutOfTime):
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
