"""Lists of words as long as RULER needs them: plain words, then compounds.

The benchmark takes its words from the package wonderwords and, for the longest lists, from a file
of English words. Ours are the lists of `tasks/prompts/words.py`, and compounds of an adjective or a
noun with a noun ("stonegarden") if a list needs more.
"""

import functools

import numpy as np

from tasks.prompts.words import word_list


@functools.cache
def plain() -> tuple[str, ...]:
    """Return all adjectives, nouns and verbs, each once, sorted."""
    return tuple(sorted({*word_list("adjectives"), *word_list("nouns"), *word_list("verbs")}))


@functools.cache
def compounds() -> tuple[str, ...]:
    """Return the compounds that are not plain words, each once, sorted."""
    tails = [word for word in word_list("nouns") if len(word) <= 6]
    heads = [word for word in word_list("adjectives") if len(word) <= 6] + tails
    joined = {head + tail for head in heads for tail in tails if head != tail}
    return tuple(sorted(joined - set(plain())))


@functools.cache
def long_words() -> tuple[str, ...]:
    """Return the plain words of at least 6 letters, 6.5 on average."""
    return tuple(word for word in plain() if len(word) >= 6)


@functools.cache
def short_compounds() -> tuple[str, ...]:
    """Return the compounds of 7 to 9 letters, so that with `long_words` the average is 7.2."""
    return tuple(word for word in compounds() if 7 <= len(word) <= 9)


def phrase(rng: np.random.Generator) -> str:
    """Draw a key such as "quiet-harbour"."""
    adjectives, nouns = word_list("adjectives"), word_list("nouns")
    return f"{adjectives[rng.integers(len(adjectives))]}-{nouns[rng.integers(len(nouns))]}"


@functools.cache
def num_phrases() -> int:
    """Return the number of keys that `phrase` can draw."""
    return len(word_list("adjectives")) * len(word_list("nouns"))
