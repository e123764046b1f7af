"""The format reward: one thought, then one final answer."""

from tasks.scoring.answers import ANSWER, THINK_END

THINK = "<think>"


def format_score(text: str) -> float:
    """Return 1 if the response is well formed, else 0.

    Well formed is: exactly one `</think>`, no `<think>` (the prompt ends in it), and after
    `</think>` exactly one `Answer:` with something after it. arXiv 2604.09494, appendix D.3.
    """
    if text.count(THINK_END) != 1 or THINK in text:
        return 0.0
    visible = text.partition(THINK_END)[2]
    if visible.count(ANSWER) != 1:
        return 0.0
    return float(bool(visible.partition(ANSWER)[2].strip()))
