"""The console of a job: lines and progress bars, shown by the process that leads."""

import dataclasses
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from recallm_jax.runtime import processes

Item = TypeVar("Item")
# Seconds between two states of a progress bar, on a terminal and in a log.
_TERMINAL_INTERVAL, _LOG_INTERVAL = 0.2, 20.0


def warn(line: str) -> None:
    """Print a warning on standard error, in the first process; for code that has no `Console`."""
    if processes.number_and_count()[0] == 0:
        print(f"warning: {line}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Console:
    """Lines on standard output and progress bars on standard error.

    Attributes:
      silent: show nothing, as in a process whose leader shows the same.
    """

    silent: bool = False

    def say(self, line: str) -> None:
        """Print a line: on a terminal above the progress bar, in a log as it is."""
        if self.silent:
            return
        if sys.stderr.isatty():
            tqdm.write(line, file=sys.stdout)
        else:
            print(line, flush=True)

    def progress(
        self, items: Iterable[Item], title: str, *, total: int | None = None, done: int = 0
    ) -> Iterable[Item]:
        """Yield the items under a progress bar that shows the time left.

        Args:
          total: number of items, those already done included; None if `items` has a length.
          done: items that an earlier run did.
        """
        if self.silent:
            return items
        interval = _TERMINAL_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL
        return tqdm(
            items,
            desc=title,
            total=total,
            initial=done,
            mininterval=interval,
            maxinterval=interval,
            dynamic_ncols=True,
            file=sys.stderr,
        )
