"""HELMET's scores of an output against reference texts (arXiv 2410.02694, appendix).

The rules are the benchmark's, without the guards of `tasks/scoring/answers.py`. For example, a
reference that normalises to nothing, such as "The", is a substring of every output.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from tasks.scoring.answers import normalise, token_f1

# Answers that are either wholly right or wrong.
_CLOSED = ("yes", "no", "noanswer")
_ROUGE = ("rougeL", "rougeLsum")


def exact_match(output: str, reference: str) -> float:
    """Return 1 if both are equal after normalisation."""
    return float(normalise(output) == normalise(reference))


def substring_exact_match(output: str, reference: str) -> float:
    """Return 1 if the normalised output contains the normalised reference."""
    return float(normalise(reference) in normalise(output))


def f1(output: str, reference: str) -> float:
    """Return the F1 of the normalised words; 0 if only one side is yes, no or noanswer."""
    sides = normalise(output), normalise(reference)
    if sides[0] != sides[1] and any(side in _CLOSED for side in sides):
        return 0.0
    return token_f1(output, reference)


@functools.cache
def _rouge_scorer():
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(list(_ROUGE), use_stemmer=True)


def rouge(output: str, reference: str) -> dict[str, float]:
    """Return the F1 and recall of ROUGE-L and ROUGE-Lsum, on stemmed words."""
    scores = _rouge_scorer().score(target=reference, prediction=output)
    return {
        f"{kind}_{name}": value
        for kind in _ROUGE
        for name, value in (("f1", scores[kind].fmeasure), ("recall", scores[kind].recall))
    }


def text_scores(output: str, references: Sequence[str]) -> dict[str, float]:
    """Return all scores of an output, each the maximum over the references."""
    simple: Mapping[str, Callable[[str, str], float]] = {
        "exact_match": exact_match,
        "f1": f1,
        "substring_exact_match": substring_exact_match,
    }
    scores = {name: max(rule(output, r) for r in references) for name, rule in simple.items()}
    rouges = [rouge(output, reference) for reference in references]
    return scores | {name: max(r[name] for r in rouges) for name in rouges[0]}


def parse(output: str, lead_in: str = "Answer:") -> str:
    """Return the text after the lead-in on its line, in any case; the first line if there is none.

    A second lead-in at its beginning is removed too.
    """
    found = re.search(re.escape(lead_in) + "(.*)", output, re.IGNORECASE)
    line = (found[1] if found else output.split("\n", 1)[0]).strip()
    if line.lower().startswith(lead_in.lower()):
        line = line[len(lead_in) :]
    return line.strip()


def better_of_raw_and_parsed(
    output: str, references: Sequence[str], lead_in: str = "Answer:"
) -> dict[str, float]:
    """Return the scores of the output or of its parsed part, whichever is higher."""
    raw = text_scores(output, references)
    parsed = text_scores(parse(output, lead_in), references)
    return {name: max(value, parsed[name]) for name, value in raw.items()}


def choice_scores(output: str, letter: str, text: str) -> dict[str, float]:
    """Return the scores of a choice, which is right as `letter. text` or as the letter alone.

    `letter. text` may be a substring; the letter must be the whole output or its parsed part.
    """
    option = f"{letter}. {text}"
    scores = better_of_raw_and_parsed(output, [letter, option])
    contained = float(option.lower() in output.lower())
    sides = output, parse(output)
    exact = max(_is_letter(side, letter) or exact_match(side, option) for side in sides)
    return scores | {
        "substring_exact_match": contained,
        "exact_match": max(float(exact), contained),
    }


def _is_letter(side: str, letter: str) -> bool:
    """Return whether a text is the letter after normalisation.

    Normalisation removes "A" as an article, so that an empty text would equal "A"; here the letter
    must be in the text.
    """
    there = letter.lower() in re.findall(r"\w+", side.lower())
    return there and normalise(side) == normalise(letter)
