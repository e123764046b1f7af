"""A console whose lines a test reads."""

import dataclasses

from recallm_jax.runtime.console import Console


@dataclasses.dataclass(frozen=True)
class Listening(Console):
    """Keeps the lines in `said` in the place of showing them."""

    said: list[str] = dataclasses.field(default_factory=list)

    def say(self, line: str) -> None:
        """Keep a line."""
        self.said.append(line)
