"""The format reward: one thought, then one final answer, in two categories of a certain form."""

import math
from collections.abc import Mapping

from tasks.scoring.answers import ANSWER, THINK_END
from tasks.scoring.ids import cited_ids, ranked_ids, valid_share, without_citations

THINK = "<think>"


def format_score(text: str) -> float:
    """Return 1 if the response is well formed, else 0.

    Well formed is: exactly one `</think>`, no `<think>` (the prompt ends in it), and behind
    `</think>` exactly one `Answer:` with something after it. arXiv 2604.09494, appendix D.3.
    """
    if text.count(THINK_END) != 1 or THINK in text:
        return 0.0
    visible = text.partition(THINK_END)[2]
    if visible.count(ANSWER) != 1:
        return 0.0
    return float(bool(visible.partition(ANSWER)[2].strip()))


def citation_format(answer: str, grades: Mapping[str, int]) -> float:
    """Return 1 if the answer cites at least one document and has some other text.

    Our guards beside the paper's rule (`tasks/scoring/paper.py`): a cited id must be a document's,
    and the other text must hold a letter or digit.
    """
    cites = any(name in grades for name in cited_ids(answer))
    return float(cites and any(map(str.isalnum, without_citations(answer))))


def ranking_format(answer: str, grades: Mapping[str, int]) -> float:
    """Return the root of the share of the prompt's ids that are ranked."""
    return math.sqrt(valid_share(ranked_ids(answer), grades))
