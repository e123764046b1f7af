"""The characters of words: letters and digits of any script, and the signs that belong to them."""

import functools
import unicodedata

# A zero-width space separates words although its category is that of the joiners.
_SEPARATES = "\u200b"


@functools.cache
def joins(character: str) -> bool:
    """Return whether a character is a mark, a joiner, or another sign of the character before."""
    category = unicodedata.category(character)
    return category[0] == "M" or (category == "Cf" and character != _SEPARATES)


@functools.cache
def of_word(character: str) -> bool:
    """Return whether a character is of a word."""
    return character.isalnum() or joins(character)
