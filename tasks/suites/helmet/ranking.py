"""HELMET's scores of a ranking, computed as by trec_eval (with linear gains)."""

import math
import re
from collections.abc import Mapping, Sequence

MAIN_CUT = 10
CUTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)

_RUN = re.compile(r"\d+(?:\s*>\s*\d+)*")


def parse_ranking(output: str) -> list[str]:
    """Return the ids of a ranking such as `ID3 > ID1`, best first, each at its first place.

    Brackets, colons and "id" are removed. The ranking is the longest run of numbers joined by ">",
    or the first of several that are equally long.
    """
    text = re.sub(r"[\[\]:]", "", output).lower().replace("id", "")
    run = max(_RUN.findall(text), key=len, default="")
    return list(dict.fromkeys(re.findall(r"\d+", run)))


def ranking_scores(ranking: Sequence[str], labels: Mapping[str, int]) -> dict[str, float]:
    """Return NDCG, MAP, recall and precision at the cuts, and MRR.

    Unknown ids take a place and gain nothing. A document with a label of 1 or more is relevant.

    Args:
      labels: the graded relevance of every document. Cuts above their number (and above 10) are
        left out.
    """
    gains = [labels.get(name, 0) for name in ranking]
    ideal = sorted(labels.values(), reverse=True)
    relevant = sum(label > 0 for label in ideal)
    hits = [place for place, gain in enumerate(gains, 1) if gain > 0]
    scores = {"MRR": 1 / hits[0] if hits else 0.0}
    for cut in (cut for cut in CUTS if cut <= max(len(labels), MAIN_CUT)):
        best = _discounted(ideal[:cut])
        within = [place for place in hits if place <= cut]
        precisions = [number / place for number, place in enumerate(within, 1)]
        scores[f"NDCG@{cut}"] = _discounted(gains[:cut]) / best if best else 0.0
        scores[f"Recall@{cut}"] = len(within) / relevant if relevant else 0.0
        scores[f"P@{cut}"] = len(within) / cut
        scores[f"MAP@{cut}"] = sum(precisions) / relevant if relevant else 0.0
    return scores


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))
