"""Lists of words as long as RULER's: plain ones, and compounds past these.

The benchmark takes its words from the package wonderwords and, for the longest lists, from a file
of English words. Ours are those of `tasks/prompts/words.py`, and compounds of a noun or an
adjective with a noun ("stonegarden") where a list needs more.
"""

import functools

import numpy as np

from tasks.prompts.words import ADJECTIVES, NOUNS, VERBS


@functools.cache
def plain() -> tuple[str, ...]:
    """Return all adjectives, nouns and verbs, each once, sorted."""
    return tuple(sorted({*ADJECTIVES, *NOUNS, *VERBS}))


@functools.cache
def compounds() -> tuple[str, ...]:
    """Return compounds that are no plain word, each once, sorted."""
    heads = [word for word in (*ADJECTIVES, *NOUNS) if len(word) <= 6]
    tails = [word for word in NOUNS if len(word) <= 6]
    joined = {head + tail for head in heads for tail in tails if head != tail}
    return tuple(sorted(joined - set(plain())))


def phrase(rng: np.random.Generator) -> str:
    """Draw a key such as "quiet-harbour"."""
    return f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]}-{NOUNS[rng.integers(len(NOUNS))]}"
