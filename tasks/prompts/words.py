"""English words for keys, options and lists, and names of people: text files beside this one.

All of them are our own choice. No noun is an adjective too, so that two names never make a third.
"""

import functools
import importlib.resources
from typing import Literal

WordList = Literal["adjectives", "nouns", "verbs", "first_names", "last_names"]


@functools.cache
def word_list(name: WordList) -> tuple[str, ...]:
    """Read a list of words in the order of its file; once a process."""
    file = importlib.resources.files("tasks.prompts") / f"{name}.txt"
    return tuple(file.read_text(encoding="utf-8").split())
