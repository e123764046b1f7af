"""Score an answer: text in, float out. Rewards and metrics use the same functions.

`candidates.py` scores choices among the candidates of a list, `ids.py` rankings and citations,
`mathematics.py` expressions; `paper.py` has the paper's own rules.
"""

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator

from tasks.prompts.vocabulary import END_RECALL, START_RECALL

ANSWER = "Answer:"
THINK_END = "</think>"
# Enough to name the key and repeat the value in a sentence, too few to list the context's values.
MAX_ANSWER_WORDS = 16
MAX_WORD_LENGTH = 16

_WORD = re.compile(r"[0-9A-Za-z]+")
_ANY_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"(?<![0-9A-Za-z.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\.?\d|[A-Za-z])")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_QUOTES = {
    *('""', "''", "``", "\u201c\u201d", "\u2018\u2019", "\u201e\u201c", "\u201e\u201d"),
    *("\u201a\u2018", "\u00ab\u00bb", "\u00bb\u00ab", "\u2039\u203a", "\u300c\u300d"),
    *("\u300e\u300f", "()", "[]", "**", "__"),
}
_MARKER = re.compile(r"[-*\u2022\u2013\u2014]\s+")
_LATEX = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf)\s?\{([^{}]*)\}")
FULL_STOPS = ".\u3002\uff0e"
# How much of the dress is looked at: a long answer of stars must not take seconds.
MOST_LAYERS, MOST_READINGS = 8, 8


def extract_answer(response: str) -> str:
    """Return the answer of a response as every score of ours reads it.

    That is `bare_answer` without recall tags, and without what only dresses it (see `undressed`).
    """
    answer = bare_answer(response).replace(START_RECALL, "").replace(END_RECALL, "")
    return undressed(answer) if answer else ""


def bare_answer(response: str) -> str:
    """Return the text after the last `Answer:` that comes after the last `</think>`.

    The last-answer rule of arXiv 2604.09494, appendix D.3: the answer runs to the end of the
    response, newlines included. Without `</think>` the whole response is searched (only the format
    reward is lost then), and without `Answer:` the answer is empty.
    """
    _, found, answer = response.rpartition(THINK_END)[2].rpartition(ANSWER)
    return answer.strip() if found else ""


def undressed(answer: str) -> str:
    """Return an answer without the dash of a list, and without quotes or the like around all of it.

    Taken off are quotes of all kinds, brackets, Markdown, and LaTeX's \\text{}, as long as they
    open and close around the whole answer; with them a full stop behind the last one.
    """
    text = answer.strip()
    if text.count("**") == 1:
        # The other one is before the label.
        text = text.removeprefix("**").removesuffix("**").strip()
    for _ in range(MOST_LAYERS):
        bare = _MARKER.sub("", text, count=1) if _MARKER.match(text) else text
        wrapped = _LATEX.fullmatch(bare.rstrip(FULL_STOPS))
        bare = wrapped[1] if wrapped else _unquoted(bare)
        if bare == text:
            break
        text = bare.strip()
    return text


def _unquoted(text: str) -> str:
    """Return a text without the quotes or brackets that open and close around all of it."""
    inside = text.rstrip(FULL_STOPS)
    if len(inside) < 2 or inside[0] + inside[-1] not in _QUOTES:
        return text
    opening, closing, inside = inside[0], inside[-1], inside[1:-1]
    # "[1] and [2]" opens and closes twice.
    depth = 1
    for character in inside:
        depth += (character == opening) - (character == closing)
        if depth < 1 or (opening == closing and character == opening != "*"):
            return text
    return inside


EXPLAINS = re.compile(r"\s[-\u2013\u2014]+\s|[.;]\s|\u3002|\n")
_CHOICE = re.compile(r"\b(?:or|either|neither|nor)\b", re.IGNORECASE)


def readings(answer: str) -> Iterator[str]:
    """Yield the whole answer, and its parts before what may be an explanation.

    An explanation follows a dash, the end of a sentence or a line. The answer before it counts
    unless the explanation offers a choice.
    """
    yield answer
    last_choice = max((choice.start() for choice in _CHOICE.finditer(answer)), default=-1)
    for place in itertools.islice(EXPLAINS.finditer(answer), MOST_READINGS):
        if last_choice < place.end():
            yield answer[: place.start()]


def contains_value(answer: str, value: str) -> float:
    """Return 1 if the answer contains the value, case-sensitive.

    The paper's rule is a plain substring test (arXiv 2604.09494, appendix D.3). Ours differs where
    that rewards gaming or luck:

    * a blank value scores 0 (the empty string is a substring of everything);
    * the value must stand alone: not inside a longer run of letters and digits, and a number not
      inside another one (12 is neither in -12 nor in 12.5);
    * an answer that also offers another candidate scores 0. Candidates are as long as the value;
      they are numbers if the value is one, otherwise words that mix letters and digits or mix
      cases (ordinary words are not candidates);
    * an answer of more than MAX_ANSWER_WORDS words scores 0 (twice the value's words for a long
      value). Anything but a letter or digit ends a word, so a list cannot hide as one word.
    """
    words = _WORD.findall(answer)
    if not value.strip() or is_lengthy(answer, value):
        return 0.0
    if _NUMBER.fullmatch(value):
        candidates = set(_NUMBER.findall(answer))
        contained = value in candidates
    else:
        contained = stands_alone(value, answer)
        candidates = {word for word in words if _is_code(word)}
    return float(contained and not any(len(c) == len(value) and c != value for c in candidates))


def is_lengthy(answer: str, *values: str) -> bool:
    """Return whether an answer is too long to be one that gives these values only.

    More than MAX_ANSWER_WORDS words a value, or twice the values' words where that is more; for
    scripts without spaces more than MAX_WORD_LENGTH characters for each of these words.
    """
    words = sum(len(_ANY_WORD.findall(value)) for value in values)
    limit = max(MAX_ANSWER_WORDS * len(values), 2 * words)
    # A word takes at least two characters with its separator: most texts need no count.
    if len(answer) < 2 * limit:
        return False
    longest = max(MAX_WORD_LENGTH * limit, 2 * sum(map(len, values)))
    return len(answer) > longest or len(_ANY_WORD.findall(answer)) > limit


def stands_alone(value: str, text: str) -> bool:
    """Return whether a value occurs outside longer runs of letters and digits."""
    place = text.find(value) if value else -1
    while place >= 0:
        around = text[place - 1 : place] + text[place + len(value) : place + len(value) + 1]
        if not _WORD.search(around):
            return True
        place = text.find(value, place + 1)
    return False


def _is_code(word: str) -> bool:
    """Return whether a run of letters and digits is neither an ordinary word nor a number."""
    if word.isalpha():
        return not (word.islower() or word.isupper() or word.istitle())
    return not word.isdigit()


def exact_match(answer: str, value: str) -> float:
    """Return 1 if the answer is the value, apart from its dress, a full stop, an explanation."""
    return max(is_value(reading, value) for reading in readings(answer))


def is_value(answer: str, value: str) -> float:
    """Return 1 if the answer is the value alone, apart from its dress and a full stop."""
    wanted = _bare(value)
    return float(bool(wanted) and _bare(answer) == wanted)


def _bare(text: str) -> str:
    return undressed(undressed(text).rstrip(FULL_STOPS))


def normalise(text: str) -> str:
    """Return SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


class _Plain(dict[int, str]):
    """What each character becomes in the plain form; a table that fills itself."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        if category == "Pd" or category[0] == "Z":
            plain = " "
        elif category[0] == "P" or chr(code) in string.punctuation or 0x300 <= code < 0x370:
            plain = ""
        else:
            plain = chr(code)
        self[code] = plain
        return plain


_PLAIN = _Plain({ord("-"): " "})
# A full stop between digits is a decimal point.
_NO_POINT = re.compile(r"(?<!\d)\.|\.(?!\d)")
_PLAIN[ord(".")] = "."
_ARTICLES = frozenset(("a", "an", "the"))


def plain(text: str) -> str:
    """Return our normal form: as SQuAD's, for all scripts.

    Lower case; no accents; no punctuation of any script, but decimal points stay, and a hyphen or
    dash separates words; single spaces; no articles, unless the text is nothing else.
    """
    text = _NO_POINT.sub("", unicodedata.normalize("NFKD", text).casefold())
    words = text.translate(_PLAIN).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def is_equal_normalised(answer: str, reference: str) -> float:
    """Return 1 if the two have the same plain form, apart from an explanation after the answer.

    If nothing is left of the reference (a label such as "?"), the bare texts are compared, so that
    an empty answer is never right.
    """
    wanted = plain(reference)
    if wanted:
        return float(any(plain(reading) == wanted for reading in readings(answer)))
    return exact_match(answer.lower(), reference.lower())


# How many words an answer may have around the reference.
MAX_AROUND = 5
# Separators of a list; between digits they belong to a number.
_LISTING = re.compile(r"[,;/|\n](?!\d)")
_SEVERAL = frozenset(("and", "but", "either", "neither", "nor", "not", "or"))


def matches_reference(answer: str, reference: str) -> float:
    """Return 1 if one of the texts contains the other (short answers to questions).

    arXiv 2604.09494, appendix D.3. Our guards:

    * both are in our plain form (`plain`);
    * if that leaves nothing of a text (""), the score is 0, although any text contains the empty
      one;
    * containment is of whole words ("e" is not in "the beatles");
    * a part of the reference must be half of its words and a third of its characters ("Obama" for
      "Barack Obama", not "of" for "Bank of England");
    * an answer of more than MAX_ANSWER_WORDS words scores 0 (twice the reference's words for a
      long one), so that a copy of the context earns nothing;
    * an answer with more than MAX_AROUND words around the reference scores 0;
    * an answer that lists, offers a choice or says what is not meant scores 0. It is known by more
      commas or the like than the reference has, by a word of _SEVERAL that the reference lacks, by
      having both yes and no, or by another number as long as a reference that is a number.
    """
    given, wanted = plain(answer), plain(reference)
    if not given or not wanted or is_lengthy(answer, reference):
        return 0.0
    if given == wanted:
        return 1.0
    words, wanted_words = given.split(), wanted.split()
    several = len(_LISTING.findall(answer)) > len(_LISTING.findall(reference))
    if several or _SEVERAL & set(words) - set(wanted_words) or {"yes", "no"} <= set(words):
        return 0.0
    if len(words) - len(wanted_words) > MAX_AROUND:
        return 0.0
    if wanted.isdigit():
        numbers = (word for word in words if word.isdigit())
        if any(len(number) == len(wanted) and number != wanted for number in numbers):
            return 0.0
    if f" {wanted} " in f" {given} ":
        return 1.0
    return float(
        f" {given} " in f" {wanted} "
        and 2 * len(words) >= len(wanted_words)
        and 3 * len(given) >= len(wanted)
    )


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the normalised words (SQuAD); 0 if either text has no word."""
    words, wanted = normalise(answer).split(), normalise(reference).split()
    common = sum((Counter(words) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
