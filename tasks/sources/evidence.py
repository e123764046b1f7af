"""Which passage of a corpus supports an answer, where a data set names none.

Distant supervision takes the best passage that holds the answer (DPR, arXiv 2004.04906, section
4.1). In a corpus that says little about a question, that passage mostly has nothing to do with it:
it holds the year, the country or the number by chance. The rules here ask for more, and leave
the question without evidence rather than guess.
"""

import itertools
import re
from collections.abc import Iterable, Sequence

from tasks.prompts.context import Range
from tasks.prompts.sentences import PASSAGE, sentence_ranges
from tasks.sources.corpus import Corpus, stem, words
from tasks.sources.passages import Passage, places, support

# How many of the question's nearest passages are looked at.
RANKS = 5
# The shares of the question's weight that the passage, and its title with the sentence of the
# answer, must have: for answers of several words, for one rare word, and for bare numbers.
PHRASE, WORD, NUMBER = (0.55, 0.52), (0.9, 0.65), (1.0, 0.9)
# So much weight in one sentence suffices for words, whatever its share: long questions say much
# that no passage repeats.
HEAVY = 25.0
# A word of the answer is rare if at most this share of the passages has it, or this many.
RARE_SHARE, RARE = 0.001, 10
# The fewest words of a question that can be matched, and beside a bare number.
FEWEST, FEWEST_FOR_NUMBER = 2, 4
# A longer sentence is a table: then this many characters on each side of the answer count.
LONG_SENTENCE, AROUND = 300, 100
# Words that ask, or that say no more than the asking does.
_ASKING = frozenset(
    re.findall(
        r"\w+",
        "who whom whose what which when where why how did does do was were is are has have had "
        "many much name named first last come came take took get got make made your you",
    )
)
_NUMBERS = frozenset(
    re.findall(r"\w+", "one two three four five six seven eight nine ten eleven twelve")
)


def find_evidence(
    corpus: Corpus, question: str, answers: Sequence[str], also: Iterable[Passage] = ()
) -> tuple[Passage, Range] | None:
    """Return the passage that supports an answer best, and the range of its text that does.

    One of the nearest passages supports an answer if its title and text have most of the question's
    words, by weight, and so do its title and the sentence that holds the answer. Weights are
    inverse document frequencies. A single word as the answer needs more of them, a bare number
    nearly all, and a common word never suffices. The answer must be of the kind that is asked for:
    one with digits for "when", a name for "who".

    Args:
      corpus: is searched, and has the weights.
      also: passages that are looked at beside the nearest ones of the corpus.

    Returns:
      The passage and the sentence (of a table, the words around the answer), or None.
    """
    asked = asked_stems(question)
    best: tuple[float, Passage, Range] | None = None
    for passage in (*also, *itertools.islice(corpus.nearest(question), RANKS)):
        for answer in answers:
            own = {stem(word) for word in words(answer)}
            wanted = asked - own
            needed = _needed(corpus, own, len(wanted))
            if needed is None or not is_of_kind(question, answer):
                continue
            total = sum(map(corpus.weight, wanted))
            whole = _weight(corpus, wanted, f"{passage.title} {passage.text}")
            for place in _around(passage.text, answer):
                near = _weight(corpus, wanted, f"{passage.title} {passage.text[slice(*place)]}")
                enough = whole >= needed[0] * total and near >= needed[1] * total
                enough |= needed is not NUMBER and near >= HEAVY
                if total and enough and (best is None or near / total > best[0]):
                    best = near / total, passage, place
    return None if best is None else best[1:]


def asked_stems(question: str) -> set[str]:
    """Return the stems of a question's words, without those that only ask."""
    return {stem(word) for word in words(question) if word not in _ASKING}


def num_shared(question: str, answers: Sequence[str], text: str) -> int:
    """Return how many of a question's stems, other than the answers', a text has."""
    own = {stem(word) for answer in answers for word in words(answer)}
    return len((asked_stems(question) - own) & {stem(word) for word in words(text)})


def least_shared(question: str, answers: Sequence[str]) -> int:
    """Return how many of the question's stems a sentence must have beside one of its answers.

    A bare number stands in many places by chance.
    """
    return int(bool(asked_stems(question)) and all(_is_number(words(answer)) for answer in answers))


def most_alike(
    question: str, answers: Sequence[str], passages: Iterable[Passage]
) -> tuple[Passage, Range] | None:
    """Return the passage that answers a question, among some of which one should, and its support.

    It is the first with the sentence that holds an answer and shares, with its title, most words
    with the question. None if no sentence holds an answer, or those of a bare number share none.
    """
    best, found = least_shared(question, answers) - 1, None
    for passage in passages:
        for place in (place for answer in answers for place in _around(passage.text, answer)):
            near = f"{passage.title} {passage.text[slice(*place)]}"
            if (shared := num_shared(question, answers, near)) > best:
                best, found = shared, (passage, supported(passage, answers, place))
    return found


def supported(passage: Passage, answers: Sequence[str], place: Range) -> Range:
    """Return the range of a passage's text to recall for the sentences at a place."""
    parts = sentence_ranges(passage.text, PASSAGE)
    low, high = place
    known = [number for number, (start, end) in enumerate(parts) if start < high and end > low]
    return support(passage, answers, known, parts)


def is_of_kind(question: str, answer: str) -> bool:
    """Return whether an answer can be one to a question that begins with "when", "who" …."""
    asked = " ".join(re.findall(r"\w+", question.casefold())) + " "
    if asked.startswith("when "):
        return any(character.isdigit() for character in answer)
    if asked.startswith(("who ", "whom ", "whose ")):
        return any(character.isupper() for character in answer) and not re.search(r"\d", answer)
    if asked.startswith(("how many ", "how much ", "how long ", "how old ")):
        return _is_number(words(answer)) or any(character.isdigit() for character in answer)
    return True


def _weight(corpus: Corpus, wanted: set[str], text: str) -> float:
    """Return the weight of those of some stems that a text has."""
    return sum(map(corpus.weight, wanted & {stem(word) for word in words(text)}))


def _needed(corpus: Corpus, answer: set[str], asked: int) -> tuple[float, float] | None:
    """Return the shares that passage and sentence need, given the stems of answer and question.

    None: nothing could show that such an answer does not stand there by chance.
    """
    if asked < FEWEST or not answer:
        return None
    if _is_number(answer):
        return NUMBER if asked >= FEWEST_FOR_NUMBER else None
    if len(answer) > 1:
        return PHRASE
    (word,) = answer
    return WORD if corpus.count(word) <= max(RARE, RARE_SHARE * len(corpus.passages)) else None


def _is_number(answer: Sequence[str] | set[str]) -> bool:
    return all(word in _NUMBERS or not re.search(r"[^\W\d]", word) for word in answer)


def _around(text: str, answer: str) -> list[Range]:
    """Return for each place of an answer the sentence that holds it, or what is near in a table."""
    sentences = sentence_ranges(text, PASSAGE)
    found = []
    for low, high in places(text, answer):
        first = next(start for start, end in sentences if end > low)
        last = next(end for start, end in sentences if end >= high)
        if last - first > LONG_SENTENCE:
            first = max(first, low - AROUND)
            last = min(last, high + AROUND)
            # Whole words.
            first = text.rfind(" ", 0, first) + 1 if first else 0
            last = text.find(" ", last) if text.find(" ", last) >= 0 else len(text)
        found.append((first, last))
    return found
