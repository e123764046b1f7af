"""Score answers that consist of document ids: rankings and citations."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from tasks.scoring.answers import EXPLAINS, FULL_STOPS, is_lengthy, plain, readings
from tasks.scoring.candidates import is_listing

RANKED = 10
# Recall of citations and coverage of answers are counted up to five.
ENOUGH = 5
# A span may touch up to three passages; a span with more ids is a list.
MAX_IDS_PER_SPAN = 3

_MARKS = re.compile(
    r"document|passage|doc|id|[\[\](){}<:#*`\"'\u2018-\u201f\u00ab\u00bb\u2039\u203a\u300c-\u300f]"
)
_CITED = re.compile(r"\[(?:(?:document|passage|doc|id)[\s:#]*)?([0-9, ]{1,40})\]", re.IGNORECASE)


def ranked_ids(answer: str) -> list[str]:
    """Return the ids of a ranking "a > b > c", best first, each at its first place only.

    Words such as "ID" and "Doc", brackets, quotes and colons are dropped, and so are the lines and
    the words with a colon before the first id, and what explains the last one.
    """
    items = answer.lower().split(">")
    items[0] = items[0].strip(": \n").rpartition("\n")[2].rpartition(":")[2]
    last = min(readings(items[-1].strip()), key=len)
    items[-1] = EXPLAINS.split(last)[0].rstrip(f"{FULL_STOPS} ")
    ids = (" ".join(_MARKS.sub(" ", item).split()) for item in items)
    return list(dict.fromkeys(name for name in ids if name))


def _by_id(grades: Mapping[str, int]) -> dict[str, int]:
    """Return the grades by id, with the ids written as `ranked_ids` returns them."""
    return {
        " ".join(_MARKS.sub(" ", name.lower()).split()): grade for name, grade in grades.items()
    }


def _as_in_prompt(ranking: Iterable[str], known: Collection[str]) -> list[str]:
    """Return the ids with the leading zeros that they have in the prompt, each once."""
    short = Counter(name.lstrip("0") for name in known)
    full = {bare: name for name in known if short[bare := name.lstrip("0")] == 1}
    return list(
        dict.fromkeys(
            name if name in known else full.get(name.lstrip("0"), name) for name in ranking
        )
    )


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], *, cut: int = RANKED) -> float:
    """Return nDCG with linear gain: sum of grade / log2(place + 1), over that sum's best value.

    Unknown ids gain nothing but take a place. The score is 0 if no document is relevant.
    """
    known = _by_id(grades)
    best = _dcg(sorted(known.values(), reverse=True)[:cut])
    ranked = _as_in_prompt(ranking, known)[:cut]
    return _dcg(known.get(name, 0) for name in ranked) / best if best > 0 else 0.0


def _dcg(gains: Iterable[int]) -> float:
    return math.fsum(
        max(0, gain) / math.log2(place + 1) for place, gain in enumerate(gains, start=1)
    )


def valid_share(ranking: Collection[str], grades: Mapping[str, int]) -> float:
    """Return the share of the prompt's ids that are ranked."""
    known = _by_id(grades)
    return len(known.keys() & set(_as_in_prompt(ranking, known))) / max(1, len(known))


def cited_ids(text: str) -> list[str]:
    """Return the distinct ids cited as "[3]", "[3, 4]" or "[Document 3]", in their order."""
    groups = _CITED.findall(text)
    return list(dict.fromkeys(name for group in groups for name in re.findall("[0-9]+", group)))


def without_citations(text: str) -> str:
    """Return the text with every citation replaced by a space."""
    return _CITED.sub(" ", text)


def citation_f1(answer: str, spans: Iterable[str], grades: Mapping[str, int]) -> float:
    """Return the F1 of the cited documents against the documents that hold an answer.

    The formula is `weighted_citation_f1`. Our guards:

    * citing more than half of the wrong documents scores 0: that is citing everything;
    * a span with more than MAX_IDS_PER_SPAN ids backs none: it is a copy of the whole context.
    """
    cited = cited_ids(answer)
    distractors = {name for name, grade in grades.items() if grade <= 0}
    if is_listing(len(distractors & set(cited)), len(distractors)):
        return 0.0
    shown: set[str] = set()
    for span in spans:
        ids = cited_ids(span)
        shown.update(ids if len(ids) <= MAX_IDS_PER_SPAN else ())
    return weighted_citation_f1(cited, shown, grades)


def weighted_citation_f1(
    cited: Sequence[str], shown: Collection[str], grades: Mapping[str, int]
) -> float:
    """Return the F1 of distinct cited ids; one that no recall span shows has half the weight.

    Recall = min(m, weight of the right ids) / m with m = min(5, documents that hold an answer);
    precision = weight of the right ids / weight of all (arXiv 2604.09494, appendix D.3). The score
    is 0 if no cited id is right.
    """
    right = {name for name in cited if grades.get(name, 0) > 0}
    relevant = sum(grade > 0 for grade in grades.values())
    if not right:
        return 0.0
    weights = {name: 1.0 if name in shown else 0.5 for name in cited}
    weight = sum(weights[name] for name in right)
    needed = min(ENOUGH, relevant)
    recall, precision = min(weight, needed) / needed, weight / sum(weights.values())
    return 2 * precision * recall / (precision + recall)


def answer_coverage(answer: str, parts: Sequence[Sequence[str]]) -> float:
    """Return min(5, answers given) / min(5, answers there are); citations are removed first.

    An answer is given if the text has one of its aliases, both in plain form, as whole words (a
    substring by the paper's rule, arXiv 2604.09494, appendix D.3). Our guards: an alias is never
    given if nothing is left of it; an answer of more than MAX_ANSWER_WORDS words for
    each of the answers (of five at least) scores 0, because it is a copy of the context.
    """
    text = plain(without_citations(answer))
    if is_lengthy(text, *(aliases[0] for aliases in parts), *[""] * (ENOUGH - len(parts))):
        return 0.0
    words = f" {text} "
    given = sum(
        any((wanted := plain(alias)) and f" {wanted} " in words for alias in aliases)
        for aliases in parts
    )
    return min(ENOUGH, given) / max(1, min(ENOUGH, len(parts)))
