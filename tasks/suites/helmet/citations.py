"""HELMET's scores of cited answers (ALCE): the short answers found, and whether citations hold.

Citation precision and recall need a judge that says whether a text entails a claim; the benchmark
asks an 11B model. Without a judge these two are not computed.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from tasks.prompts.sentences import CITED, split_sentences
from tasks.scoring.answers import normalise

Entailment = Callable[[str, str], bool]  # (premise, hypothesis)
MOST_CITATIONS = 3
# Shorter pieces are the numbers of a list.
SHORTEST_SENTENCE = 5
TOP = 5

_CITATION = re.compile(r"\[(\d+)")


def on_one_line(output: str) -> str:
    """Return the output as ALCE scores it, with line breaks as spaces."""
    return re.sub(r"\n+", " ", output).replace("<|im_end|>", "")


def without_citations(text: str) -> str:
    """Return a text without citations such as `[1][2]` and the space before each."""
    return re.sub(r" ?\[\d+", "", text).replace(" |", "").replace("]", "")


def answer_recall(output: str, questions: Sequence[Sequence[str]]) -> float:
    """Return `str_em`: the share of sub-questions with a short answer in the output."""
    text = normalise(without_citations(on_one_line(output)))
    found = [any(normalise(answer) in text for answer in answers) for answers in questions]
    return sum(found) / len(found)


def list_items(output: str) -> list[str]:
    """Return the comma-separated items of an output, citations included."""
    return [item.strip() for item in output.rstrip().rstrip(".").rstrip(",").split(",")]


def list_scores(output: str, answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compare the items of a list with the answers, by normalised equality (QAMPARI).

    `qampari_rec_top5` is min(5, answers found) / min(5, answers).

    Args:
      answers: the aliases of each answer.
    """
    items = [normalise(item) for item in list_items(without_citations(on_one_line(output)))]
    items = [item for item in items if item]
    wanted = [{normalise(alias) for alias in aliases} for aliases in answers]
    found = sum(not aliases.isdisjoint(items) for aliases in wanted)
    right = sum(any(item in aliases for aliases in wanted) for item in items)
    precision = right / len(items) if items else 0.0
    recall, top = found / len(wanted), min(TOP, found) / min(TOP, len(wanted))
    return {
        "qampari_prec": precision,
        "qampari_rec": recall,
        "qampari_rec_top5": top,
        "qampari_f1": _f1(precision, recall),
        "qampari_f1_top5": _f1(precision, top),
    }


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def sentence_claims(output: str) -> list[str]:
    """Return the claims of a prose answer: its sentences, citations included.

    The benchmark splits with NLTK's trained model, which is not at hand offline.
    """
    sentences = split_sentences(on_one_line(output), CITED)
    return [sentence for sentence in sentences if len(sentence) >= SHORTEST_SENTENCE]


def list_claims(output: str, question: str) -> list[str]:
    """Return the claims of a list: the question with each item and its citations."""
    return [f"{question} {item}" for item in list_items(on_one_line(output))]


def citation_scores(
    claims: Sequence[str], documents: Mapping[str, str], judge: Entailment
) -> dict[str, float]:
    """Return citation recall and precision of one answer; nothing if it has no claim.

    Recall is the share of claims that their first three citations together entail. A claim without
    a citation, or with a citation of an unknown document, counts as not entailed. Precision is the
    share of citations that are needed. A citation is needed if its claim is entailed, unless the
    citation does not entail the claim alone while the others do without it.

    Args:
      documents: the text of each document by its number, as in `[3]`.
      judge: says whether a premise entails a hypothesis.
    """
    if not claims:
        return {}
    entailed = needed = total = 0
    for claim in claims:
        cited = [number.lstrip("0") for number in _CITATION.findall(claim)]
        if not cited or any(number not in documents for number in cited):
            continue
        cited = cited[:MOST_CITATIONS]
        total += len(cited)
        plain = without_citations(claim).strip()
        if not judge(_joined(cited, documents), plain):
            continue
        entailed += 1
        needed += _needed(cited, documents, plain, judge)
    return {
        "citation_rec": entailed / len(claims),
        "citation_prec": needed / total if total else 0.0,
    }


def _needed(cited: list[str], documents: Mapping[str, str], claim: str, judge: Entailment) -> int:
    """Return how many of the citations of an entailed claim are needed."""
    if len(cited) == 1:
        return 1
    count = 0
    for number in cited:
        others = list(cited)
        others.remove(number)
        alone = judge(documents[number], claim)
        count += bool(alone or not judge(_joined(others, documents), claim))
    return count


def _joined(cited: Sequence[str], documents: Mapping[str, str]) -> str:
    return "\n".join(documents[number] for number in cited)
