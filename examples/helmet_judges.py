"""HELMET's judged metrics, by a model behind an OpenAI-compatible endpoint.

    python examples/helmet_judges.py --config=configs/eval_helmet.py --workdir=runs/helmet \\
        --label=start --rescore

takes the arguments of `recallm_jax.evaluate`. Before, set JUDGE_URL (such as
http://localhost:8000/v1), JUDGE_MODEL, and JUDGE_KEY if the endpoint wants one. HELMET asks GPT-4o
(2024-05-13) and an 11B entailment model with wordings of its own; scores of another judge, or of
these wordings, compare policies with each other and not with published numbers.
"""

import functools
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

from recallm_jax import evaluate
from tasks.suites import registry
from tasks.suites.helmet.judges import Judges
from tasks.suites.helmet.suite import helmet, helmet_chat, overall

ENTAILS = """Does the text support the claim, so that a reader of the text alone would call it true?

Text:
{premise}

Claim: {claim}

Reply with yes or no."""
ANSWER = """Grade an answer to a question about a story.

Question: {question}
Right answers: {references}
Answer: {output}

Reply with JSON: {{"fluency": 0 or 1, "correctness": 0, 1, 2 or 3}}. Fluency is 1 for readable text.
Correctness is 3 if the answer says what a right answer says, 0 if it says nothing of it."""
SUMMARY = """Compare a summary with an expert's.

Expert's summary:
{references}

Summary:
{output}

Reply with JSON: {{"fluency": 0 or 1, "recall": 0 to 1, "precision": 0 to 1}}. Recall is the share
of the expert's key points that the summary has; precision the share of its sentences that the
expert's summary supports."""


@functools.cache
def ask(prompt: str) -> str:
    """Return the judge's reply. The same prompt is asked once.

    Raises:
      SystemExit: the endpoint can't be reached, or refuses.
    """
    url = os.environ.get("JUDGE_URL", "")
    if not url:
        raise SystemExit("JUDGE_URL is not set; give an endpoint such as http://localhost:8000/v1")
    body = {
        "model": os.environ.get("JUDGE_MODEL", ""),
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/chat/completions",
        json.dumps(body).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {os.environ.get('JUDGE_KEY', 'none')}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["choices"][0]["message"]["content"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"the judge at {url} did not answer ({error}); see JUDGE_URL") from None


def numbers(reply: str, **most: float) -> tuple[float, ...]:
    """Return the named numbers of a reply with JSON; one that is missing or too large is an error.

    Raises:
      ValueError: names what is wrong.
    """
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    values = json.loads(found[0]) if found else {}
    for name, bound in most.items():
        if not isinstance(values.get(name), int | float) or not 0 <= values[name] <= bound:
            raise ValueError(f"the judge's {name} is not a number from 0 to {bound}: {reply!r}")
    return tuple(float(values[name]) for name in most)


def entails(premise: str, claim: str) -> bool:
    """Return whether a text supports a claim."""
    return ask(ENTAILS.format(premise=premise, claim=claim)).strip().lower().startswith("yes")


def grade_answer(question: str, output: str, references: Sequence[str]) -> tuple[float, float]:
    """Return fluency and correctness of an answer."""
    prompt = ANSWER.format(question=question, output=output, references=" or ".join(references))
    fluency, correctness = numbers(ask(prompt), fluency=1, correctness=3)
    return fluency, correctness


def grade_summary(output: str, references: Sequence[str]) -> tuple[float, float, float]:
    """Return fluency, recall and precision of a summary."""
    prompt = SUMMARY.format(output=output, references="\n\n".join(references))
    fluency, recall, precision = numbers(ask(prompt), fluency=1, recall=1, precision=1)
    return fluency, recall, precision


def register() -> None:
    """Let the suites `helmet` and `helmet_chat` ask the judge."""
    judges = Judges(entailment=entails, answer=grade_answer, summary=grade_summary)
    for name, tasks in (("helmet", helmet), ("helmet_chat", helmet_chat)):
        registry.register(
            name, functools.partial(tasks, judges), lambda scores: overall(scores, judges)
        )


if __name__ == "__main__":
    register()
    sys.exit(evaluate.main())
