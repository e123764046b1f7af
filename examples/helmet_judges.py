"""HELMET's judged metrics, by a model behind an OpenAI-compatible endpoint.

    python examples/helmet_judges.py --config=configs/eval_helmet.py --workdir=runs/helmet \\
        --label=start --rescore

takes the arguments of `recallm_jax.evaluate`. Before, set JUDGE_URL (such as
http://localhost:8000/v1), JUDGE_MODEL, and JUDGE_KEY if the endpoint wants one. HELMET asks GPT-4o
(2024-05-13) and an 11B entailment model with wordings of its own; scores of another judge, or of
these wordings, compare policies with each other and not with published numbers.

Replies are kept in `judge_replies.jsonl` in the folder of the results, or in the current folder if
that one is remote, so a job that stops and starts again pays for each once.
"""

import argparse
import contextlib
import email.utils
import functools
import http.client
import json
import os
import pathlib
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from recallm_jax import evaluate
from tasks.errors import TaskInputError
from tasks.suites import registry
from tasks.suites.helmet.judges import Judges
from tasks.suites.helmet.suite import helmet, helmet_chat, overall

T = TypeVar("T")
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


# Seconds to wait before another try, where the endpoint doesn't say how long.
WAITS = (2.0, 10.0, 30.0)
LONGEST_WAIT = 600.0
# The file of the replies, as JSONL. `main` puts it beside the results.
replies = pathlib.Path("judge_replies.jsonl")


def ask(prompt: str, read: Callable[[str], T]) -> T:
    """Return what `read` finds in the judge's reply; the same prompt is paid once.

    An overloaded or broken endpoint, and a reply that can't be read, are tried again.

    Raises:
      TaskInputError: the endpoint can't be reached, refuses, or gives nothing that can be read.
    """
    model = os.environ.get("JUDGE_MODEL", "")
    if (model, prompt) in (kept := kept_replies(replies)):
        return read(kept[model, prompt])
    request = request_of(model, prompt)
    for wait in (*WAITS, None):
        again = True
        try:
            reply = reply_of(request)
            found = read(reply)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code}, {error.reason}"
            again = error.code == 429 or error.code >= 500
            wait = wait and seconds_asked(error.headers.get("Retry-After"), wait)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            keep(replies, model, prompt, reply)
            return found
        if wait is None or not again:
            break
        time.sleep(wait)
    raise TaskInputError(f"the judge at {request.full_url} gave no grade ({reason}); see JUDGE_URL")


def request_of(model: str, prompt: str) -> urllib.request.Request:
    """Return the request for a reply.

    Raises:
      TaskInputError: JUDGE_URL is missing, or is no URL.
    """
    url = os.environ.get("JUDGE_URL", "")
    message = {"role": "user", "content": prompt}
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ.get('JUDGE_KEY', 'none')}",
    }
    body = json.dumps({"model": model, "messages": [message], "temperature": 0}).encode()
    try:
        return urllib.request.Request(f"{url.rstrip('/')}/chat/completions", body, headers)
    except ValueError as error:
        raise TaskInputError(
            f"JUDGE_URL = {url!r} is no endpoint ({error}); give one such as "
            "http://localhost:8000/v1"
        ) from None


def reply_of(request: urllib.request.Request) -> str:
    """Return the text of one reply.

    Raises:
      ValueError: the reply holds no text.
      OSError, HTTPException: the endpoint does not answer, or refuses.
    """
    with urllib.request.urlopen(request, timeout=120) as response:
        body = json.load(response)
    try:
        content = body["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise ValueError(f"a reply without a text: {json.dumps(body)[:200]}")
    return content


def seconds_asked(given: str | None, otherwise: float) -> float:
    """Return how long a Retry-After header asks to wait: seconds, or a date."""
    try:
        if given is None or given.strip().isdecimal():
            seconds = otherwise if given is None else float(given)
        else:
            seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
    except (ValueError, OverflowError):
        seconds = otherwise
    return min(max(seconds, 0.0), LONGEST_WAIT)


@functools.cache
def kept_replies(path: pathlib.Path) -> dict[tuple[str, str], str]:
    """Return the replies of a file by model and prompt; a line cut short by a stop is left out."""
    kept = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            kept[row["model"], row["prompt"]] = row["reply"]
    return kept


def keep(path: pathlib.Path, model: str, prompt: str, reply: str) -> None:
    """Add a reply to the file."""
    kept_replies(path)[model, prompt] = reply
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"model": model, "prompt": prompt, "reply": reply}
    with path.open("a", encoding="utf-8") as file:
        # The line before may have been cut short.
        file.write(f"\n{json.dumps(row)}\n")


def numbers(reply: str, **most: float) -> tuple[float, ...]:
    """Return the named numbers of the last JSON object in a reply that has all of them.

    Raises:
      ValueError: one is missing or too large, or there is no object; names what is wrong.
    """
    values: dict[str, Any] = {}
    for place in re.finditer(r"\{", reply):
        with contextlib.suppress(ValueError):
            found = json.JSONDecoder().raw_decode(reply, place.start())[0]
            values = found if not values or most.keys() <= found.keys() else values
    for name, bound in most.items():
        if not isinstance(values.get(name), int | float) or not 0 <= values[name] <= bound:
            raise ValueError(f"the judge's {name} is not a number from 0 to {bound}: {reply!r}")
    return tuple(float(values[name]) for name in most)


def verdict(reply: str) -> bool:
    """Return whether a reply begins with yes.

    Raises:
      ValueError: it begins with neither yes nor no.
    """
    found = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
    if found is None:
        raise ValueError(f"the judge says neither yes nor no: {reply!r}")
    return found[1].lower() == "yes"


def entails(premise: str, claim: str) -> bool:
    """Return whether a text supports a claim."""
    return ask(ENTAILS.format(premise=premise, claim=claim), verdict)


def grade_answer(question: str, output: str, references: Sequence[str]) -> tuple[float, float]:
    """Return fluency and correctness of an answer."""
    prompt = ANSWER.format(question=question, output=output, references=" or ".join(references))
    fluency, correctness = ask(prompt, lambda reply: numbers(reply, fluency=1, correctness=3))
    return fluency, correctness


def grade_summary(output: str, references: Sequence[str]) -> tuple[float, float, float]:
    """Return fluency, recall and precision of a summary."""
    prompt = SUMMARY.format(output=output, references="\n\n".join(references))
    most = {"fluency": 1, "recall": 1, "precision": 1}
    fluency, recall, precision = ask(prompt, lambda reply: numbers(reply, **most))
    return fluency, recall, precision


def register() -> None:
    """Let the suites `helmet` and `helmet_chat` ask the judge."""
    judges = Judges(entailment=entails, answer=grade_answer, summary=grade_summary)
    for name, tasks in (("helmet", helmet), ("helmet_chat", helmet_chat)):
        registry.register(
            name, functools.partial(tasks, judges), lambda scores: overall(scores, judges)
        )


def main(argv: Sequence[str]) -> int:
    """Run `evaluate` with the judge; replies are kept in the folder of the results."""
    global replies
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workdir")
    parser.add_argument("--results")
    given, _ = parser.parse_known_args(argv)
    folder = given.results or given.workdir
    if folder and "://" not in folder:
        replies = pathlib.Path(folder) / replies.name
    register()
    return evaluate.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
