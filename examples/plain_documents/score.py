r"""Score answers to the held-out questions, as `python -m recallm_jax.ask --questions` writes them.

    python -m recallm_jax.ask \
        --questions=examples/plain_documents/own_questions_validation.jsonl > answers.jsonl
    python examples/plain_documents/score.py box=answers.jsonl

prints a row for each NAME=FILE: the share of answers that are right (an accepted answer and little
else), and the share of responses with a recall span that holds an accepted answer, both with 95 %
Wilson intervals; and the mean tokens of a response.
"""

import json
import pathlib
import sys
from typing import Any

from recallm_jax.evaluation.statistics import wilson_interval
from recallm_jax.evaluation.summaries import align
from tasks.scoring.answers import matches_reference
from tasks.sources.passages import places

QUESTIONS = pathlib.Path(__file__).parent / "own_questions_validation.jsonl"


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def scores(row: dict[str, Any], accepted: list[str]) -> tuple[bool, bool]:
    """Return whether the answer is right, and whether a span holds an accepted answer."""
    right = any(matches_reference(row["answer"], answer) for answer in accepted)
    spans = [span["text"] for span in row["spans"] if span["closed"]]
    held = any(any(places(span, answer)) for span in spans for answer in accepted)
    return right, held


def main(arguments: list[str]) -> None:
    """Print the table."""
    questions = read(QUESTIONS)
    lines = [["answers", "n", "right", "span holds the answer", "tokens"]]
    for argument in arguments:
        name, _, file = argument.partition("=")
        rows = sorted(read(pathlib.Path(file)), key=lambda row: row["number"])
        if [row["question"] for row in rows] != [question["question"] for question in questions]:
            sys.exit(f"error: {file} does not hold an answer to each of {QUESTIONS}, in order")
        found = [scores(r, q["answers"]) for r, q in zip(rows, questions, strict=True)]
        cells = []
        for part in zip(*found, strict=True):
            low, high = wilson_interval(sum(part), len(part))
            cells.append(f"{sum(part)} ({100 * low:.0f} to {100 * high:.0f} %)")
        tokens = sum(row["tokens"] for row in rows) / len(rows)
        lines.append([name, str(len(rows)), *cells, f"{tokens:.0f}"])
    print(align(lines))


if __name__ == "__main__":
    if len(sys.argv) < 2 or not all("=" in argument for argument in sys.argv[1:]):
        sys.exit("error: give answers, such as box=answers.jsonl")
    main(sys.argv[1:])
