"""Scores of an answer: text in, float out. Rewards and metrics use the same functions."""

import re
import string
from collections import Counter

ANSWER = "Answer:"
THINK_END = "</think>"
# An answer may repeat its value, name its key and say a few words; a list of the context's values
# is longer than this many times the value.
MAX_ANSWER_WORDS = 16


def extract_answer(response: str) -> str:
    """Return what follows the last `Answer:` behind the last `</think>`, stripped.

    Without `</think>` the whole response is searched (only the format reward is lost then), and
    without `Answer:` the answer is empty. arXiv 2604.09494, appendix D.3.
    """
    visible = response.rpartition(THINK_END)[2]
    before, found, answer = visible.rpartition(ANSWER)
    return answer.strip() if found else ""


def contains_value(answer: str, value: str, *, paper_rule: bool = False) -> float:
    """Return 1 if the answer contains the value, case-sensitive.

    The paper's rule is a plain substring test. Ours differs where that rewards gaming, and
    `paper_rule` brings the paper's back:

    * an empty value scores 0 (the empty string is a substring of everything);
    * the value must stand alone, not inside a longer alphanumeric run;
    * an answer of more than MAX_ANSWER_WORDS words scores 0 (a list of every candidate).
    """
    if paper_rule:
        return float(value in answer)
    if not value or len(answer.split()) > max(MAX_ANSWER_WORDS, 2 * len(value.split())):
        return 0.0
    alone = rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9A-Za-z])"
    return float(re.search(alone, answer) is not None)


def exact_match(answer: str, value: str) -> float:
    """Return 1 if the answer is the value, up to outer spaces, quotes, brackets and a full stop."""
    return float(bool(value) and answer.strip(" \t\r\n\"'`()[]*.") == value.strip())


def normalise(text: str) -> str:
    """Return SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the normalised words (SQuAD)."""
    words, wanted = normalise(answer).split(), normalise(reference).split()
    common = sum((Counter(words) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
