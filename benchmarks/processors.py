"""The cost of a step of the span constraint as `recall_spans` serves transformers and vLLM.

    python -m benchmarks.processors --out=runs/processors.json --peer=PYTHON

16 rows that are some tokens deep in a span of a prompt of Zipf-distributed ids, vocabulary 152,064.
A step moves each row by a token, collects what may come next, and masks float32 logits [16, V].
Beside the index, in the same rows: a scan of the prompt, as a Python list, for what the span has
copied, as the logits processor of the paper's release does in every step; and a NumPy vector of the
places that still match. With `--peer`, a Python that has PyTorch and transformers: the same step as
a call of `recall_spans.hugging_face.RecallSpans` on one thread, by the clock and in processor time.
Medians, and the least time in parentheses.
"""

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import make_parser, write_report
from benchmarks.run_peer import run_peer
from benchmarks.span_copy import END, ROWS, START, VOCAB, still_matching_seconds, zipf_prompts
from recall_spans.machine import Response
from recall_spans.prompt import Prompt
from recall_spans.rules import Rules
from recall_spans.serving import masks_of
from recall_spans.suffix_index import SuffixIndex

RULES = Rules(
    start_token_id=START,
    end_token_id=END,
    vocab_size=VOCAB,
    barrier_token_ids=(START, END),
    min_length=1,
    max_length=128,
    span_alignment="token",
    copy_source="prompt",
    paper_compatible=False,
)
DEPTHS = (1, 4, 16, 64)
REPEATS = 9


def step(rows: list[Response], tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Move each row by a token, and return the masked logits."""
    for row, token in zip(rows, tokens.tolist(), strict=True):
        row.advance([token])
    masks = masks_of((number, row.allowed()) for number, row in enumerate(rows))
    masked = np.full(logits.shape, -np.inf, np.float32)
    masked[masks.allowed] = logits[masks.allowed]
    return masked


def scan(prompt: list[int], copied: list[list[int]], logits: np.ndarray) -> np.ndarray:
    """Look in the whole prompt for what each row has copied, and return the masked logits."""
    masked = np.full(logits.shape, -np.inf, np.float32)
    for row, span in enumerate(copied):
        depth = len(span)
        following = {
            prompt[place + depth]
            for place in range(len(prompt) - depth)
            if prompt[place : place + depth] == span
        }
        allowed = [*following, END]
        masked[row, allowed] = logits[row, allowed]
    return masked


def times(call: Callable[[], object], repeats: int) -> list[float]:
    """Return the milliseconds of each of several calls."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return taken


def measure(length: int, repeats: int, peer: Path | None) -> list[dict]:
    """Return the figures of one prompt length, in milliseconds.

    Raises:
      ValueError: the ways allow different tokens.
    """
    tokens = zipf_prompts(length).tokens[0]
    everywhere = np.ones(length, bool)
    prompt = Prompt(tokens, everywhere, everywhere, everywhere)
    builds = times(lambda: SuffixIndex(prompt, RULES.max_length), min(repeats, 3))
    index = SuffixIndex(prompt, RULES.max_length)
    logits = np.random.default_rng(1).standard_normal((ROWS, VOCAB)).astype(np.float32)
    places = np.random.default_rng(2).integers(0, length - max(DEPTHS) - 1, ROWS)
    found = []
    for depth in DEPTHS:
        copied = np.stack([tokens[place : place + depth] for place in places])
        ours = []
        for _ in range(repeats):
            rows = [Response(RULES, index, None, None) for _ in places]
            for row, span in zip(rows, copied.tolist(), strict=True):
                row.advance([START, *span[:-1]])
            start = time.perf_counter()
            masked = step(rows, copied[:, -1], logits)
            ours.append(1e3 * (time.perf_counter() - start))
        listed, spans = tokens.tolist(), copied.tolist()
        if not np.array_equal(masked, scan(listed, spans, logits)):
            raise ValueError(f"{depth} deep, the scan allows other tokens than the index")
        others = {
            "list_scan": times(functools.partial(scan, listed, spans, logits), min(repeats, 3)),
            "numpy_still_matching": [1e3 * still_matching_seconds(tokens, copied)],
            "index": ours,
        }
        if peer is not None:
            ran = run_peer(peer, "processors_peer.py", length=length, depth=depth, repeats=repeats)
            others["transformers"] = ran["ms"]
            others["transformers_cpu"] = ran["cpu_ms"]
        found.append(
            {
                "prompt_tokens": length,
                "depth": depth,
                "index_build_ms": statistics.median(builds),
                "index_build_least_ms": min(builds),
                **{f"{name}_ms": statistics.median(taken) for name, taken in others.items()},
                **{f"{name}_least_ms": min(taken) for name, taken in others.items()},
            }
        )
    return found


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8_192, 131_072])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--peer", type=Path, help="a Python with PyTorch and transformers")
    arguments = parser.parse_args()
    print(f"{ROWS} rows, vocabulary {VOCAB}; milliseconds a step for all rows")
    rows = []
    for length in arguments.lengths:
        measured = measure(length, arguments.repeats, arguments.peer)
        first = measured[0]
        print(
            f"\n{length} tokens: index built in {first['index_build_ms']:.0f} "
            f"({first['index_build_least_ms']:.0f})"
        )
        ways = ["list_scan", "numpy_still_matching", "index"]
        ways += ["transformers", "transformers_cpu"] if arguments.peer else []
        print("deep", *(f"{way:>22s}" for way in ways))
        for row in measured:
            cells = [f"{row[f'{way}_ms']:.2f} ({row[f'{way}_least_ms']:.2f})" for way in ways]
            print(f"{row['depth']:4d}", *(f"{cell:>22s}" for cell in cells))
        rows += measured
    write_report(arguments.out, rows)


if __name__ == "__main__":
    main()
