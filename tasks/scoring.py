"""Scores of an answer: text in, float out. Rewards and metrics use the same functions."""

import re
import string
from collections import Counter

ANSWER = "Answer:"
THINK_END = "</think>"
# Enough to name the key and repeat the value in a sentence, too few to list the context's values.
MAX_ANSWER_WORDS = 16

_WORD = re.compile(r"[0-9A-Za-z]+")
_NUMBER = re.compile(r"(?<![0-9A-Za-z.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\.?\d|[A-Za-z])")
# What may surround a value in an answer: spaces, quotes, brackets, Markdown.
_AROUND = " \t\r\n\"'`\u201c\u201d\u2018\u2019()[]*"


def extract_answer(response: str) -> str:
    """Return what follows the last `Answer:` behind the last `</think>`, stripped.

    The last-answer rule of arXiv 2604.09494, appendix D.3: the answer runs to the end of the
    response, newlines included. Without `</think>` the whole response is searched (only the format
    reward is lost then), and without `Answer:` the answer is empty.
    """
    visible = response.rpartition(THINK_END)[2]
    _, found, answer = visible.rpartition(ANSWER)
    return answer.strip() if found else ""


def contains_value(answer: str, value: str, *, paper_rule: bool = False) -> float:
    """Return 1 if the answer contains the value, case-sensitive.

    The paper's rule is a plain substring test (arXiv 2604.09494, appendix D.3). Ours differs where
    that rewards gaming or luck, and `paper_rule` brings the paper's back:

    * a blank value scores 0 (the empty string is a substring of everything);
    * the value must stand alone: not inside a longer run of letters and digits, and a number not
      inside another one (12 is neither in -12 nor in 12.5);
    * an answer that also offers another candidate scores 0, candidates being the words like the
      value: as long as it, and numbers where it is one, else words of mixed letters and digits or
      mixed case (ordinary words are none);
    * an answer of more than MAX_ANSWER_WORDS words scores 0 (twice the value's words for a long
      value); words end at anything but a letter or digit, so no joint hides a list.
    """
    if paper_rule:
        return float(value in answer)
    words = _WORD.findall(answer)
    if not value.strip() or len(words) > max(MAX_ANSWER_WORDS, 2 * len(_WORD.findall(value))):
        return 0.0
    if _NUMBER.fullmatch(value):
        candidates = set(_NUMBER.findall(answer))
        contained = value in candidates
    else:
        alone = rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9A-Za-z])"
        contained = re.search(alone, answer) is not None
        candidates = {word for word in words if _is_code(word)}
    return float(contained and not any(len(c) == len(value) and c != value for c in candidates))


def _is_code(word: str) -> bool:
    """Return whether a run of letters and digits is no ordinary word and no number."""
    if word.isalpha():
        return not (word.islower() or word.isupper() or word.istitle())
    return not word.isdigit()


def exact_match(answer: str, value: str) -> float:
    """Return 1 if the answer is the value, up to what may surround it and a final full stop."""
    wanted = _bare(value)
    return float(bool(wanted) and _bare(answer) == wanted)


def _bare(text: str) -> str:
    return text.strip(_AROUND).removesuffix(".").strip(_AROUND)


def normalise(text: str) -> str:
    """Return SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the normalised words (SQuAD); 0 where either side has none."""
    words, wanted = normalise(answer).split(), normalise(reference).split()
    common = sum((Counter(words) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
