"""Scores of answers made of document ids: rankings and citations."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from tasks.scoring.answers import is_lengthy, normalise
from tasks.scoring.candidates import is_listing

RANKED = 10
# Recall of citations and coverage of answers are counted up to five.
ENOUGH = 5
# A span is a passage or a part of two; one with more ids is a list.
MAX_IDS_PER_SPAN = 3

_MARKS = re.compile(r"document|passage|doc|id|[\[\](){}<:#*`\"']")
_CITED = re.compile(r"\[([0-9, ]{1,40})\]")
_ONE_CITED = re.compile(r"\[(\d+)\]")


def ranked_ids(answer: str) -> list[str]:
    """Return the ids of a ranking "a > b > c", best first, each at its first place only.

    Words such as "ID" and "Doc", brackets and colons are dropped. Text in lines before the first
    and after the last id is no part of it.
    """
    items = answer.lower().split(">")
    items[0] = items[0].strip().rpartition("\n")[2]
    items[-1] = items[-1].strip().partition("\n")[0].rstrip(". ")
    ids = (" ".join(_MARKS.sub(" ", item).split()) for item in items)
    return list(dict.fromkeys(name for name in ids if name))


def _by_id(grades: Mapping[str, int]) -> dict[str, int]:
    """Return the grades by ids in the form that `ranked_ids` gives."""
    return {
        " ".join(_MARKS.sub(" ", name.lower()).split()): grade for name, grade in grades.items()
    }


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], *, cut: int = RANKED) -> float:
    """Return nDCG with linear gain: sum of grade / log2(place + 1), over that of the best order.

    Unknown ids gain nothing but take a place. 0 where no document is relevant.
    """
    known = _by_id(grades)
    best = _dcg(sorted(known.values(), reverse=True)[:cut])
    return _dcg(known.get(name, 0) for name in ranking[:cut]) / best if best > 0 else 0.0


def _dcg(gains: Iterable[int]) -> float:
    return math.fsum(
        max(0, gain) / math.log2(place + 1) for place, gain in enumerate(gains, start=1)
    )


def valid_share(ranking: Collection[str], grades: Mapping[str, int]) -> float:
    """Return the distinct ids of the prompt that are ranked, over all of them."""
    known = _by_id(grades)
    return len(known.keys() & set(ranking)) / max(1, len(known))


def cited_ids(text: str, *, paper_rule: bool = False) -> list[str]:
    """Return the distinct ids cited as "[3]", by ours also as "[3, 4]", in their order."""
    if paper_rule:
        return list(dict.fromkeys(_ONE_CITED.findall(text)))
    groups = _CITED.findall(text)
    return list(dict.fromkeys(name for group in groups for name in re.findall("[0-9]+", group)))


def without_citations(text: str, *, paper_rule: bool = False) -> str:
    """Return the text with every citation replaced by a space."""
    return (_ONE_CITED if paper_rule else _CITED).sub(" ", text)


def citation_f1(
    answer: str, spans: Iterable[str], grades: Mapping[str, int], *, paper_rule: bool = False
) -> float:
    """Return the F1 of the cited documents against those that hold an answer.

    A cited id weighs 1 where a recall span shows it too, else 1/2. Recall = min(m, weight of the
    right ones) / m with m = min(5, documents with an answer), precision = weight of the right ones
    over the weight of all (arXiv 2604.09494, appendix D.3). Our guards:

    * citing more than half of the wrong documents scores 0: that is citing everything;
    * a span backs at most MAX_IDS_PER_SPAN ids, one with more is a copy of the whole context.
    """
    cited = cited_ids(answer, paper_rule=paper_rule)
    right = {name for name in cited if grades.get(name, 0) > 0}
    relevant = sum(grade > 0 for grade in grades.values())
    if not right:
        return 0.0
    if not paper_rule:
        distractors = grades.keys() - {name for name, grade in grades.items() if grade > 0}
        if is_listing(len(distractors & set(cited)), len(distractors)):
            return 0.0
    shown: set[str] = set()
    for span in spans:
        ids = cited_ids(span, paper_rule=paper_rule)
        shown.update(ids if paper_rule or len(ids) <= MAX_IDS_PER_SPAN else ())
    weights = {name: 1.0 if name in shown else 0.5 for name in cited}
    weight = sum(weights[name] for name in right)
    needed = min(ENOUGH, relevant)
    recall, precision = min(weight, needed) / needed, weight / sum(weights.values())
    return 2 * precision * recall / (precision + recall)


def answer_coverage(
    answer: str, parts: Sequence[Sequence[str]], *, paper_rule: bool = False
) -> float:
    """Return min(5, answers given) / min(5, answers there are), citations taken away.

    An answer is given where one of its aliases, normalised, is in the text: as a substring by the
    paper's rule, as words by ours. Guards of ours: an alias of which normalising leaves nothing is
    never given, and an answer of more than MAX_ANSWER_WORDS words for each of the answers, and for
    five at least, scores 0: it is a copy of the context.
    """
    text = normalise(without_citations(answer, paper_rule=paper_rule))
    if paper_rule:
        given = sum(any(normalise(alias) in text for alias in aliases) for aliases in parts)
    else:
        if is_lengthy(text, *(aliases[0] for aliases in parts), *[""] * (ENOUGH - len(parts))):
            return 0.0
        words = f" {text} "
        given = sum(
            any((wanted := normalise(alias)) and f" {wanted} " in words for alias in aliases)
            for aliases in parts
        )
    return min(ENOUGH, given) / max(1, min(ENOUGH, len(parts)))
