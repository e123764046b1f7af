"""Time calls of the processor for transformers, and print them as JSON.

`benchmarks.processors` runs this script under another Python, which has PyTorch and transformers.
The prompt and the rows are drawn as there.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from recall_spans.hugging_face import RecallSpans
from recall_spans.rules import Rules
from recall_spans.tokens import TokenTable

VOCAB, ROWS = 152_064, 16
START, END = VOCAB - 2, VOCAB - 1


def main() -> None:
    """Start `repeats` spans, and time the call at the given depth of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    arguments = parser.parse_args()
    # On a machine with other work two threads wait for each other.
    torch.set_num_threads(1)
    rules = Rules(START, END, VOCAB, (START, END), 1, 128, "token", "prompt", False)
    processor = RecallSpans(rules, TokenTable({}, {}, VOCAB), max_new_tokens=None)
    drawn = np.random.default_rng(0).zipf(1.2, arguments.length)
    spare = np.random.default_rng(1).integers(0, START, arguments.length)
    tokens = torch.as_tensor(np.where(drawn < START, drawn, spare))
    places = np.random.default_rng(2).integers(0, arguments.length - 65, ROWS)
    copied = torch.stack([tokens[place : place + arguments.depth] for place in places])
    scores = torch.randn(ROWS, VOCAB)
    ids = tokens.repeat(ROWS, 1)
    processor(ids, scores)
    taken, last = [], (0.0, 0.0)
    starts, ends = torch.full((ROWS, 1), START), torch.full((ROWS, 1), END)
    for _ in range(arguments.repeats):
        for column in (starts, *copied.T[..., None], ends):
            ids = torch.cat([ids, column], dim=1)
            before, before_cpu = time.perf_counter(), time.thread_time()
            processor(ids, scores)
            after, after_cpu = time.perf_counter(), time.thread_time()
            if column is not starts and column is not ends:
                last = 1e3 * (after - before), 1e3 * (after_cpu - before_cpu)
        taken.append(last)
    wall, cpu = zip(*taken, strict=True)
    print(json.dumps({"ms": wall, "cpu_ms": cpu}))


if __name__ == "__main__":
    main()
