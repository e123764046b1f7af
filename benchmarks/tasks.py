"""The speed of making examples, and whether memory stays flat.

    python -m benchmarks.tasks --out=runs/tasks.json

One process, SmolLM2's tokenizer: examples a second of each synthetic data set, up to tokens with
offsets, flags and a demonstration, and the time that the tokenizer alone takes for their prompts,
once. Then resident memory over many short examples.
"""

import resource
import time

from benchmarks.report import make_parser, write_report
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import load_tokenizer
from tasks.datasets.registry import DECLARED
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

DATASETS = tuple(dataset.name for dataset in DECLARED if dataset.source is None)
LENGTHS = {8_192: 40, 131_072: 6}


def measure(tokenizer: Tokenizer, dataset: str, length: int, count: int) -> dict:
    """Measure one data set at one length."""
    wanted = TaskSettings(length)
    record(dataset, tokenizer, wanted, "train", 0, count)
    start = time.perf_counter()
    records = [record(dataset, tokenizer, wanted, "train", 0, index) for index in range(count)]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for example in records:
        tokenizer.encode(example.prompt)
    alone = time.perf_counter() - start
    tokens = sum(len(example.inputs) for example in records)
    return {
        "dataset": dataset,
        "target_length": length,
        "examples_per_second": count / seconds,
        "tokens_per_second": tokens / seconds,
        "tokenizer_alone_tokens_per_second": tokens / alone,
        "mean_tokens": tokens / count,
    }


def memory_mb(tokenizer: Tokenizer, count: int) -> list[float]:
    """Return the peak of resident memory after each fifth of `count` examples."""
    wanted = TaskSettings(1024)
    peaks = []
    for index in range(count):
        record(DATASETS[index % len(DATASETS)], tokenizer, wanted, "train", 0, index)
        if (index + 1) % (count // 5) == 0:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return peaks


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="of the memory's measurement")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(load_config(["--config=configs/quickstart.py"]))
    print("data set         tokens  examples/s  tokens/s  tokenizer alone")
    rows = []
    for length, count in LENGTHS.items():
        for dataset in DATASETS:
            row = measure(tokenizer, dataset, length, count)
            rows.append(row)
            print(
                f"{dataset:15s}  {length:6d}  {row['examples_per_second']:10.1f}"
                f"  {row['tokens_per_second']:8,.0f}"
                f"  {row['tokenizer_alone_tokens_per_second']:15,.0f}",
                flush=True,
            )
    peaks = memory_mb(tokenizer, arguments.examples)
    print(
        f"peak memory over {arguments.examples} examples, MB:", *(f"{peak:.0f}" for peak in peaks)
    )
    write_report(arguments.out, rows, peak_memory_mb=peaks, memory_examples=arguments.examples)


if __name__ == "__main__":
    main()
