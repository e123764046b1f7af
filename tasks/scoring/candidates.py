"""Score answers that choose among the candidates of a prompt: options, votes, several values.

The rules compare whole words, and an answer that lists the candidates scores 0.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from tasks.scoring.answers import is_lengthy, is_value, readings

_WORD = re.compile(r"[^\W_]+")
# "option d" and "d)" name a letter in either case.
_MARKED = re.compile(
    r"\b(?:option|answer|choice|letter)\s+\(?[a-z]\b|^\W*[a-z](?=\))", re.IGNORECASE
)
# An "A" before a word in lower case is an article, unless that is a verb or the like ("A fits"), or
# the word before it announces a letter.
_ARTICLE = re.compile(
    r"(?<!OPTION )(?<!ANSWER )(?<!CHOICE )(?<!LETTER )\bA"
    r"(?=\s+(?!(?:or|and|because|since|over|by|[a-z]*[^\Ws]s)\b)[a-z])"
)
_NOT = r"(?:\b(?:not|never|cannot|except|unlike|wrong|false|incorrect)|n['\u2019]t)\b"


def chosen_letter(answer: str, letter: str, options: Mapping[str, str]) -> float:
    """Return 1 if the answer chooses an option by its letter.

    The paper takes the first capital A to D anywhere (arXiv 2604.09494, appendix D.3), which reads
    "Certainly D" as C. Ours accepts the letter alone, in either case, before an explanation that
    names no other letter or says which are wrong; or one letter that stands alone after the
    options' texts are removed, and that is not denied. The article "A" does not count. Two letters
    score 0, and so do more than MAX_ANSWER_WORDS words beside an option's text.

    Args:
      options: the texts of the options by letter; empty means A to D without texts.
    """
    letters = list(options) or list("ABCD")
    rest = answer = _MARKED.sub(lambda found: found[0].upper(), answer)
    for text in sorted(options.values(), key=len, reverse=True):
        # A text of one character may be a letter itself.
        rest = rest.replace(text, " ") if len(text.strip()) > 1 else rest
    words = set(_WORD.findall(_ARTICLE.sub(" ", rest)))
    named = {name for name in letters if name in words}
    for reading in readings(answer):
        for name in letters:
            if is_value(reading.upper(), name.upper()) and (
                named <= {name} or re.search(_NOT, answer, re.IGNORECASE)
            ):
                return float(name == letter)
    denied = rf"{_NOT}[^,.;:]*\b{re.escape(letter)}\b|\b{re.escape(letter)}\s+(?:is|was)\s*{_NOT}"
    if is_lengthy(rest, letter) or re.search(denied, rest, re.IGNORECASE):
        return 0.0
    return float(named == {letter})


def majority(answer: str, option: Sequence[str], others: Sequence[str]) -> float:
    """Return 1 if the answer names the winning option, or gives an identifier of it.

    The paper accepts an answer that names other options too (`paper.majority`). Ours must name
    this option only, in at most MAX_ANSWER_WORDS words; so listing the options scores 0. What
    explains the answer (`answers.readings`) may name others.

    Args:
      option: the name of the option, then its identifiers.
      others: names of the other options; their identifiers are their last words.
    """
    # Only the whole tells a copy of the context from an explanation.
    if is_lengthy(answer, option[0]):
        return 0.0
    return float(any(_votes(reading, [option], others) == (1, 0) for reading in readings(answer)))


def top_votes(answer: str, options: Sequence[Sequence[str]], others: Sequence[str]) -> float:
    """Return max(0, (right - wrong) / N) over the options named (arXiv 2604.09494, D.3).

    The paper counts an option by its name or its last word. Ours takes the name without its last
    word too, and counts a name inside a longer name once (`_votes`). An answer scores 0 if it names
    more than half of the wrong options or has more than MAX_ANSWER_WORDS words for each right
    option.

    Args:
      options: the N right options, each with its name and then its identifiers.
      others: names of the wrong options; their identifiers are their last words.
    """
    right, wrong = _votes(answer, options, others)
    if is_listing(wrong, len(others)):
        return 0.0
    return max(0.0, right - wrong) / max(1, len(options))


def _votes(answer: str, options: Sequence[Sequence[str]], others: Sequence[str]) -> tuple[int, int]:
    """Return how many right and wrong options the answer names.

    An option is named by its full name, its identifier, or its name without the last word if no
    other begins so. Beside full names, identifiers must be written as they are, and are no plain
    numbers (a number of votes is not an option). An answer that is too long to name these options
    only counts as naming none.
    """
    right = [aliases[0] for aliases in options]
    if is_lengthy(answer, *right):
        return 0, 0
    short = {last_word(name): name for name in others}
    short |= {alias: aliases[0] for aliases in options for alias in aliases[1:]}
    beginnings = Counter(name.rpartition(" ")[0] for name in (*right, *others))
    for name in (*right, *others):
        beginning = name.rpartition(" ")[0]
        if " " in beginning and beginnings[beginning] == 1:
            short.setdefault(beginning, name)
    found, rest = _named(spaced(answer), [*right, *others])
    if found:
        short = {a: n for a, n in short.items() if not a.isdigit() and _occurs(a, rest)}
    found |= {short[alias] for alias in _named(rest, short)[0]}
    return len(found & set(right)), len(found - set(right))


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


def _named(text: str, names: Collection[str]) -> tuple[set[str], str]:
    """Return the names that occur in a spaced text, in any case, and the text without them.

    Each place counts for the longest name.
    """
    found = set()
    for name in sorted(names, key=len, reverse=True):
        wanted = spaced(name)
        if wanted:
            text, places = re.subn(re.escape(wanted), "  ", text, flags=re.IGNORECASE)
            found |= {name} if places else set()
    return found, text


def spaced(text: str) -> str:
    """Return the words of a text with a space around each, so that `in` finds whole words."""
    return "".join(f" {word} " for word in _WORD.findall(text))


def _occurs(value: str, text: str) -> bool:
    wanted = spaced(value)
    return bool(wanted) and wanted in text


def last_word(name: str) -> str:
    """Return the last word of a name: the identifier of an option."""
    return name.split()[-1] if name.split() else name
