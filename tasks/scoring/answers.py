"""Score an answer: text in, float out. Rewards and metrics use the same functions.

`candidates.py` scores choices among the candidates of a list, `ids.py` rankings and citations,
`mathematics.py` expressions; `paper.py` has the paper's own rules.
"""

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator

from tasks.prompts.vocabulary import END_RECALL, START_RECALL

ANSWER = "Answer:"
THINK_END = "</think>"
# The label as our scores read it: with Markdown or a space before the colon, or in capitals.
_LABEL = re.compile(r"(?:Answer|ANSWER)(?:\*\*|__)?\s?:")
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
    *("\u300e\u300f", "()", "[]", "**", "__", "$$"),
}
_MARKER = re.compile(r"[-*\u2022\u2013\u2014]\s+")
_LEAD_IN = re.compile(
    r"(?:(?:so|the|my|final|correct|right)\s+)*(?:answer|label|ranking|order|winner|result)\s*(?:is\b\s*:?|:)\s*",
    re.IGNORECASE,
)
_LATEX = re.compile(r"\\(text|textbf|textit|textrm|mathrm|mathbf|emph|boxed)\s?(?=\{)")
_TAG = re.compile(r"<(\w+)>((?:(?!</?\1>).)*)</\1>", re.DOTALL)
_INVISIBLE = str.maketrans("", "", "\u00ad\u200b\u2060\ufeff")
# What begins a value in a box or between dollar signs.
_VALUE = re.compile(r"[\w\\$]")
FULL_STOPS = ".\u3002\uff0e"
# How much of the dress is looked at: a long answer of stars must not take seconds.
MOST_LAYERS, MOST_READINGS = 8, 8


def extract_answer(response: str) -> str:
    """Return the answer of a response as every score of ours reads it.

    That is `bare_answer` without recall tags, and without what only dresses it (see `undressed`);
    the label may also be written `**Answer**:`, `Answer :` or `ANSWER:`.
    """
    _, *answers = _LABEL.split(response.rpartition(THINK_END)[2])
    if not answers:
        return ""
    return undressed(answers[-1].replace(START_RECALL, "").replace(END_RECALL, ""))


def bare_answer(response: str) -> str:
    """Return the text after the last `Answer:` that comes after the last `</think>`.

    The last-answer rule of arXiv 2604.09494, appendix D.3: the answer runs to the end of the
    response, newlines included. Without `</think>` the whole response is searched (only the format
    reward is lost then), and without `Answer:` the answer is empty.
    """
    _, found, answer = response.rpartition(THINK_END)[2].rpartition(ANSWER)
    return answer.strip() if found else ""


def undressed(answer: str) -> str:
    """Return an answer without the dash of a list, a lead-in, and quotes or the like around it.

    A lead-in is "The answer is", "label:" and the like. Taken off are quotes of all kinds,
    brackets, Markdown, HTML tags, dollar signs, and LaTeX's \\text{} and \\boxed{}, as long as they
    open and close around the whole answer; with them a full stop behind the last one, and
    characters that cannot be seen.
    """
    text = answer.translate(_INVISIBLE).strip()
    if text.count("**") == 1:
        # The other one is before the label.
        text = text.removeprefix("**").removesuffix("**").strip()
    for _ in range(MOST_LAYERS):
        bare = _MARKER.sub("", text, count=1) if _MARKER.match(text) else text
        if lead_in := _LEAD_IN.match(bare):
            bare = bare[lead_in.end() :]
        bare = _unwrapped(bare)
        if bare == text:
            break
        text = bare.strip()
    return text


def _unwrapped(text: str) -> str:
    """Return a text without the quotes, brackets or markup that open and close around it all."""
    whole = text.rstrip(FULL_STOPS)
    if tagged := _TAG.fullmatch(whole):
        return tagged[2]
    command = _LATEX.match(whole)
    rest = whole[command.end() :] if command else whole
    pair = rest[:1] + rest[1:][-1:]
    if pair != "{}" if command else pair not in _QUOTES:
        return text
    opening, closing, inside = rest[0], rest[-1], rest[1:-1]
    # In mathematics brackets and signs are part of the value: "(1, 2)", "-5".
    if (opening == "$" or (command and command[1] == "boxed")) and not _VALUE.match(inside):
        return text
    # "[1] and [2]" opens and closes twice.
    depth = 1
    for character in inside:
        depth += (character == opening) - (character == closing)
        if depth < 1 or (opening == closing and character == opening != "*"):
            return text
    return inside


EXPLAINS = re.compile(r"\s[-\u2013\u2014]+\s|[.;!?]\s|[\u3002\uff1b]|\n")
_READS_ON = re.compile(rf"{EXPLAINS.pattern}|[,:]\s|[\uff0c\u3001]|\s(?=\()")
_CHOICES = (
    *("or", "either", "neither", "nor", "vs", "versus"),
    *("maybe", "perhaps", "possibly", "alternatively"),
)
# "It could be X" offers one candidate, but not after another.
CHOICE = re.compile(rf"\b(?:{'|'.join(_CHOICES)}|could|might)\b", re.IGNORECASE)
# Words that a sentence has, and a name or a label seldom has in lower case.
_TELLING = """
all am are as be because been both came certain did do does done each fits had has have he here i
is it its matches not only said says seems she shows since so states sure than that their there
these they this those was we were when where which who whose why won
"""
# Words in lower case that names have.
_IN_NAMES = "a an and at by da de del der di du for from in la le of on the to von"
_TELLING_WORDS, _NAME_WORDS = frozenset(_TELLING.split()), frozenset(_IN_NAMES.split())


def readings(answer: str) -> Iterator[str]:
    """Yield the whole answer, and its parts before what reads as an explanation.

    An explanation follows a dash, a comma, a colon, a bracket, a sentence or a line. It offers no
    choice and tells something (`_tells`): what follows in "Paris; London" or "15 - 16" is a second
    candidate, and the whole is a list. All parts begin where the answer begins, so that a second
    candidate cannot count in place of the first.
    """
    yield undressed(answer)
    last_choice = max((choice.start() for choice in CHOICE.finditer(answer)), default=-1)
    for place in itertools.islice(_READS_ON.finditer(answer), MOST_READINGS):
        part, rest = answer[: place.start()], answer[place.end() :].lstrip()
        if last_choice < place.end() and _tells(rest, part):
            yield undressed(part)


def _tells(text: str, part: str) -> bool:
    """Return whether a text begins with a sentence rather than with another candidate.

    A sentence has a word of _TELLING, or three words of which one is an ordinary one in lower case.
    In brackets any words will do, also a number if the part before has none ("Thriller (1982)"),
    but not a code. Nothing that begins with yes or no explains.
    """
    words = re.findall(r"\w+", EXPLAINS.split(text, maxsplit=1)[0])
    if not words or words[0].casefold() in ("yes", "no"):
        return False
    if words[0].casefold() in _TELLING_WORDS or not _TELLING_WORDS.isdisjoint(words):
        return True
    if text.startswith("("):
        numbers = any(map(str.isdigit, words)) and any(map(str.isdigit, part))
        return not numbers and not any(map(_is_code, words))
    ordinary = (word for word in words if word.isalpha() and word.islower())
    return len(words) > 2 and not _NAME_WORDS.issuperset(ordinary)


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

    Lower case; no accents; no punctuation of any script, but decimal points stay, a hyphen or
    dash separates words, and "&" between words is "and"; single spaces; no articles, unless the
    text is nothing else.
    """
    text = unicodedata.normalize("NFKD", text).casefold().replace(" & ", " and ")
    text = _NO_POINT.sub("", text)
    words = text.translate(_PLAIN).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def is_equal_normalised(answer: str, reference: str) -> float:
    """Return 1 if the two have the same plain form, apart from an explanation after the answer.

    Hyphens and underscores inside words may be spaces or left out. If nothing is left of the
    reference (a label such as "?"), the bare texts are compared, so that an empty answer is never
    right.
    """
    if not plain(reference):
        return exact_match(answer.lower(), reference.lower())
    wanted = _spellings(reference)
    return float(
        any(
            not is_lengthy(reading, reference) and wanted & _spellings(reading)
            for reading in readings(answer)
        )
    )


_JOINT = re.compile(r"(?<=[^\W\d_])[-_\u2010\u2011](?=[^\W\d_])")


def _spellings(text: str) -> set[str]:
    """Return the plain forms of a text: hyphens and underscores as spaces, or left out."""
    return {plain(text.replace("_", " ")), plain(_JOINT.sub("", text))} - {""}


# How many words an answer may have around the reference.
MAX_AROUND = 5
# Separators of a list: commas and the like, but not in a number; marks between spaces ("A -> B"),
# marks on both sides of a space ("[A] [B]"), and a full stop that ends no initial or title ("J.").
_LISTING = re.compile(
    r"[,;/|\n\t](?!\d)|[\uff0c\uff1b\u3001\u2022\u00b7\u2014\u2026]|\s[^\w\s]+\s|[^\w\s]\s+[^\w\s]"
    r"|\s\(|[:?!]\s|(?<!\b[A-Za-z])(?<!\b[A-Z][a-z])\.\s"
)
_SEVERAL = frozenset((*_CHOICES, "and", "but", "not", "plus"))


def matches_reference(answer: str, reference: str, wrong: Collection[str] = ()) -> float:
    """Return 1 if one of the texts contains the other (short answers to questions).

    arXiv 2604.09494, appendix D.3. Our guards:

    * both are in our plain form (`plain`), and an explanation after the answer is no part of it
      (`readings`);
    * if that leaves nothing of a text (""), the score is 0, although any text contains the empty
      one;
    * containment is of whole words ("e" is not in "the beatles");
    * a part of the reference must be half of its words and a third of its characters ("Obama" for
      "Barack Obama", not "of" for "Bank of England");
    * an answer of more than MAX_ANSWER_WORDS words (twice the reference's words for a long one)
      must equal the reference, so that a copy of the context earns nothing;
    * an answer with more than MAX_AROUND words around the reference scores 0;
    * an answer that lists, offers a choice or says what is not meant scores 0. It is known by more
      commas or the like than the reference has, by a word of _SEVERAL that the reference lacks, by
      having both yes and no, by another number as long as one of the reference, or by a wrong
      candidate.

    Args:
      wrong: candidates of the question that are not the answer.
    """
    if is_equal_normalised(answer, reference):
        return 1.0
    if is_lengthy(answer, reference):
        return 0.0
    return float(any(_contains(reading, reference, wrong) for reading in readings(answer)))


def _contains(answer: str, reference: str, wrong: Collection[str]) -> bool:
    """Return whether one of the texts contains the other, and the answer no other candidate."""
    given, wanted = plain(answer), plain(reference)
    if not given or not wanted:
        return False
    words, wanted_words = given.split(), wanted.split()
    several = len(_LISTING.findall(answer)) > len(_LISTING.findall(reference))
    if several or _SEVERAL & set(words) - set(wanted_words) or {"yes", "no"} <= set(words):
        return False
    if len(words) - len(wanted_words) > MAX_AROUND:
        return False
    numbers = {word for word in wanted_words if word.isdigit()}
    others = {word for word in words if word.isdigit()} - numbers
    if {len(number) for number in numbers} & {len(number) for number in others}:
        return False
    if any(f" {plain(name)} " in f" {given} " for name in wrong):
        return False
    if f" {wanted} " in f" {given} ":
        return True
    return (
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
