"""Score answers that choose among the candidates of a prompt: options, votes, several values.

The rules compare whole words, and an answer that lists the candidates scores 0.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from tasks.scoring.answers import is_lengthy, is_value

_WORD = re.compile(r"[^\W_]+")
# An "A" before a word in lower case is an article, unless the word goes on about option A.
_ARTICLE = re.compile(r"\bA(?=\s+(?!(?:is|or|and|because|since|as)\b)[a-z])")


def chosen_letter(answer: str, letter: str, options: Mapping[str, str]) -> float:
    """Return 1 if the answer chooses an option by its letter.

    The paper takes the first capital A to D anywhere (arXiv 2604.09494, appendix D.3), which reads
    "Certainly D" as C. Ours accepts the letter alone, in either case, or one letter that stands
    alone after the options' texts are removed; the article "A" does not count. Two letters score
    0, and so do more than MAX_ANSWER_WORDS words beside an option's text.

    Args:
      options: the texts of the options by letter; empty means A to D without texts.
    """
    letters = list(options) or list("ABCD")
    for name in letters:
        if is_value(answer.upper(), name.upper()):
            return float(name == letter)
    rest = answer
    for text in sorted(options.values(), key=len, reverse=True):
        # A text of one character may be a letter itself.
        rest = rest.replace(text, " ") if len(text.strip()) > 1 else rest
    if is_lengthy(rest, letter):
        return 0.0
    words = set(_WORD.findall(_ARTICLE.sub(" ", rest)))
    return float({name for name in letters if name in words} == {letter})


def majority(answer: str, option: Sequence[str], others: Sequence[str]) -> float:
    """Return 1 if the answer names the winning option, or gives an identifier of it.

    The paper accepts an answer that names other options too (`paper.majority`). Ours must name
    this option only or, if it names none in full, hold the identifier of this one only, in at most
    MAX_ANSWER_WORDS words; so listing the options scores 0.

    Args:
      option: the name of the option, then its identifiers.
      others: names of the other options; their identifiers are their last words.
    """
    right, wrong = _votes(answer, [option], others)
    return float(right == 1 and wrong == 0)


def top_votes(answer: str, options: Sequence[Sequence[str]], others: Sequence[str]) -> float:
    """Return max(0, (right - wrong) / N) over the options named (arXiv 2604.09494, D.3).

    The paper counts an option by its name or its last word. Ours counts identifiers only if the
    answer names no option in full (a number of votes is not an option), and counts a name inside
    a longer name once. An answer scores 0 if it names more than half of the wrong options or has
    more than MAX_ANSWER_WORDS words for each right option.

    Args:
      options: the N right options, each with its name and then its identifiers.
      others: names of the wrong options; their identifiers are their last words.
    """
    right, wrong = _votes(answer, options, others)
    if is_listing(wrong, len(others)):
        return 0.0
    return max(0.0, right - wrong) / max(1, len(options))


def _votes(answer: str, options: Sequence[Sequence[str]], others: Sequence[str]) -> tuple[int, int]:
    """Return how many right and wrong options the answer names, or else gives by identifier.

    An answer that is too long to name these options only counts as naming none.
    """
    if is_lengthy(answer, *(aliases[0] for aliases in options)):
        return 0, 0
    names = [aliases[0] for aliases in options]
    right, wrong = _named(answer, names), _named(answer, others)
    everything = _named(answer, [*names, *others])
    right, wrong = right & everything, wrong & everything
    if everything:
        return len(right), len(wrong)
    text = spaced(answer.lower())
    found = {
        alias.lower() for aliases in options for alias in aliases if spaced(alias.lower()) in text
    }
    taken = {alias.lower() for aliases in options for alias in aliases}
    wrong = {
        name
        for name in others
        if (last := last_word(name).lower()) not in taken and spaced(last) in text
    }
    return sum(any(a.lower() in found for a in aliases) for aliases in options), len(wrong)


def several_values(answer: str, parts: Sequence[Sequence[str]], wrong: Sequence[str]) -> float:
    """Return max(0, (hits - wrong) / expected): several values are asked for (multi_niah).

    The paper's rule counts substrings (arXiv 2604.09494, appendix D.3). Ours counts whole words,
    case-sensitive. An answer that gives more than half of the wrong values, or has more than
    MAX_ANSWER_WORDS words for each part, is a copy of the context and scores 0.

    Args:
      parts: the aliases of each value that is asked for.
      wrong: values of the context that are not asked for.
    """
    if is_lengthy(answer, *(aliases[0] for aliases in parts)):
        return 0.0
    text = spaced(answer)
    hits = sum(any(_occurs(value, text) for value in aliases) for aliases in parts)
    misses = sum(_occurs(value, text) for value in wrong)
    if is_listing(misses, len(wrong)):
        return 0.0
    return max(0.0, hits - misses) / max(1, len(parts))


def is_listing(given: int, candidates: int) -> bool:
    """Return whether an answer gives more than half of the wrong candidates."""
    return 2 * given > candidates


def _named(text: str, names: Collection[str]) -> set[str]:
    """Return the names that occur as words, in any case; each place counts for the longest name."""
    rest, found = spaced(text.lower()), set()
    for name in sorted(names, key=len, reverse=True):
        wanted = spaced(name.lower())
        if wanted.strip() and wanted in rest:
            found.add(name)
            rest = rest.replace(wanted, "  ")
    return found


def spaced(text: str) -> str:
    """Return the words of a text with a space around each, so that `in` finds whole words."""
    return "".join(f" {word} " for word in _WORD.findall(text))


def _occurs(value: str, text: str) -> bool:
    wanted = spaced(value)
    return bool(wanted) and wanted in text


def last_word(name: str) -> str:
    """Return the last word of a name: the identifier of an option."""
    return name.split()[-1] if name.split() else name
