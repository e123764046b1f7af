"""The places of sentences in a text: one splitter, and the rule for each kind of text.

A sentence ends at a mark, with what closes it and the white space that follows. The rules differ in
what may close a sentence and in what must follow it. Each is fixed: the rows of data sets and
benchmarks, and HELMET's scores, depend on it to the character.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator

from tasks.prompts.context import Range

_LONGEST_ABBREVIATION = 4


@dataclasses.dataclass(frozen=True)
class SentenceRule:
    """The rule for the end of a sentence.

    Attributes:
      end: the end of a sentence, from its mark to the white space that follows.
      abbreviation: a word with its stop that ends no sentence; None where every mark counts.
    """

    end: re.Pattern[str]
    abbreviation: re.Pattern[str] | None = None


# Passages of single spaces: any mark, with the quotes and brackets that close it.
PASSAGE = SentenceRule(re.compile(r"[.!?][\"')\]]*\s+"))
# Whole documents, as they are written: also marks of Chinese and Japanese, and empty lines.
DOCUMENT = SentenceRule(re.compile(r"[.!?][\"')\]]*\s+|[\u3002\uff01\uff1f]|\n\s*\n"))
# Summaries: a quote that ends in a mark goes on, as in `"Who is it?" she asked.`
SUMMARY = SentenceRule(re.compile(r"[.!?]\s+"))
# Essays: a capital or digit must follow, so that "e.g. here" is one sentence.
ESSAY = SentenceRule(re.compile(r"[.!?][\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c]?[A-Z0-9])"))
# RULER's essays, which the benchmark splits by NLTK's punkt: several quotes or brackets may open
# the next sentence.
RULER = SentenceRule(re.compile(r"[.!?][\"'\u201d\u2019)\]]* (?=[\"'\u201c\u2018(\[]*[A-Z0-9])"))
# Answers with citations, which HELMET splits by NLTK's punkt: a citation behind the full stop
# belongs to the next sentence, no lower-case letter begins one, and common abbreviations and
# initials end none.
CITED = SentenceRule(
    re.compile(r"[.!?][\"')\u201d\u2019]*(?:\s+(?=\S)|(?=\[\d))(?![a-z])"),
    re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Prof|Gen|Col|Lt)|\b[A-Z])\.$"),
)


def sentence_ends(text: str, rule: SentenceRule) -> Iterator[int]:
    """Yield the places where a sentence has ended, after the white space that follows it.

    The end of the text is not one of them, unless it is white space after a mark.
    """
    start = 0
    for found in rule.end.finditer(text):
        mark = found.start()
        if rule.abbreviation is not None and rule.abbreviation.search(
            text, max(start, mark - _LONGEST_ABBREVIATION), mark + 1
        ):
            continue
        start = found.end()
        yield start


def sentence_ranges(text: str, rule: SentenceRule) -> list[Range]:
    """Return the range of each sentence, without the white space around it."""
    ranges = []
    for low, high in itertools.pairwise([0, *sentence_ends(text, rule), len(text)]):
        sentence = text[low:high].strip()
        if sentence:
            low += len(text[low:high]) - len(text[low:high].lstrip())
            ranges.append((low, low + len(sentence)))
    return ranges


def split_sentences(text: str, rule: SentenceRule) -> list[str]:
    """Return the sentences of a text, without the white space around them."""
    return [text[low:high] for low, high in sentence_ranges(text, rule)]
