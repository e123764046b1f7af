"""A console that a test reads, and contexts with it for policies other than transformers."""

import dataclasses
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from recallm_jax.planning.abstract import abstract_context
from recallm_jax.policy.context import Context
from recallm_jax.runtime.console import Console


@dataclasses.dataclass(frozen=True)
class Listening(Console):
    """Keeps the lines in `said` in the place of showing them; `watch` sees the items pass."""

    said: list[str] = dataclasses.field(default_factory=list)
    watch: Callable | None = None

    def say(self, line: str) -> None:
        """Keep a line."""
        self.said.append(line)

    def progress(self, items, title, *, total=None, done=0):
        """Yield the items as `watch` does."""
        return items if self.watch is None else self.watch(items, title, total=total, done=done)


def toy_context(config: ConfigDict, console: Console | None = None) -> Context:
    """Return a context with the config's mesh and the tiny tokenizer; its own policy is described.

    A toy policy is given to what runs in it.
    """
    context = abstract_context(config, jax.devices())
    return dataclasses.replace(context, console=console or Listening())
