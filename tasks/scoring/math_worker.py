"""A process that compares mathematical expressions and can be stopped at any moment.

`mathematics.py` starts it. It reads a line of JSON, [limit in seconds, reference, expression], and
answers with a line, "1" or "0". Powers such as 10^(10^10) are computed in C, where neither threads
nor Python's signal handlers can interrupt them; here the kernel's alarm ends the whole process, and
its memory is limited.
"""

import contextlib
import json
import signal
import sys

START_LIMIT = 120.0
MEMORY = 4 * 2**30


def main() -> None:
    """Answer requests until the input ends."""
    _bound_memory()
    _allow(START_LIMIT)
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(expression: str) -> list:
        boxed = f"\\boxed{{{expression}}}"
        return parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None)

    # The first use loads further modules.
    verify(read("\\frac{1}{2}"), read("0.5"), timeout_seconds=None)
    _allow(0)
    print("ready", flush=True)
    for line in sys.stdin:
        limit, reference, expression = json.loads(line)
        _allow(limit)
        try:
            equal = verify(read(reference), read(expression), timeout_seconds=None)
        # An expression that makes math-verify fail is not equal.
        except Exception:
            equal = False
        _allow(0)
        print(int(equal), flush=True)


def _allow(seconds: float) -> None:
    """Set an alarm after this much processor time, which does not run faster on a busy machine.

    0 sets none. A second alarm, by the clock and later, ends a process that waits without working.
    """
    alarms = ((signal.SIGPROF, signal.ITIMER_PROF, 1), (signal.SIGALRM, signal.ITIMER_REAL, 20))
    for alarm, timer, factor in alarms:
        signal.signal(alarm, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [alarm])
        signal.setitimer(timer, factor * seconds)


def _bound_memory() -> None:
    import resource

    # Some systems have no such limit; there the alarm has to do.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
