"""What the span constraint costs: a jitted loop that samples under it, and the same loop without.

    python -m benchmarks.span_copy --out=runs/span_copy.json

Greedy rows open a span each and copy until the loop ends; logits are random, so that only masking,
sampling and the state machine are timed, not a model. Vocabulary 152,064, Zipf-distributed ids.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from decoding.prompts import Prompts
from decoding.span_copy import SpanRules, advance, initial_state, mask_logits
from decoding.suffix_index import build_index
from recallm_jax.machine import describe_machine

VOCAB = 152_064
START, END = VOCAB - 2, VOCAB - 1
ROWS = 16
STEPS = 64
RULES = SpanRules(start_token=START, end_token=END, vocab_size=VOCAB, max_length=128)


def zipf_prompts(length: int, seed: int = 0) -> Prompts:
    """Return one prompt whose tokens may all be copied."""
    tokens = np.random.default_rng(seed).zipf(1.2, length).clip(1, START - 1) - 1
    everywhere = np.ones((1, length), bool)
    return Prompts(
        tokens=tokens[None].astype(np.int32),
        lengths=np.array([length], np.int32),
        copyable=everywhere,
        span_start=everywhere,
        span_end=everywhere,
    )


@functools.partial(jax.jit, static_argnames="constrained")
def copy_loop(index, logits, constrained: bool):
    """Take STEPS greedy steps; return the last tokens, so that nothing is optimised away."""

    def step(number, carry):
        state, token = carry
        # Other logits each step; ending is possible and never the best choice.
        moved = jnp.roll(logits, number, axis=-1).at[..., END].set(-1e6)
        if constrained:
            moved = mask_logits(moved, state, index, RULES)
        token = jnp.argmax(moved, axis=-1).astype(jnp.int32)
        token = jnp.where(number == 0, START, token)
        return (advance(state, token, index, RULES) if constrained else state), token

    first = (initial_state(index, ROWS, 2 * STEPS), jnp.zeros((1, ROWS), jnp.int32))
    return lax.fori_loop(0, STEPS, step, first)[1]


def median_seconds(function, *arguments, repeats: int = 7) -> float:
    """Return the median time of a call, compilation left out."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(length: int) -> dict:
    """Return the figures of one context length, in milliseconds."""
    prompts = jax.tree.map(jnp.asarray, zipf_prompts(length))
    build = jax.jit(functools.partial(build_index, num_rows=VOCAB, max_length=RULES.max_length))
    index = build(prompts)
    logits = jax.random.normal(jax.random.key(0), (1, ROWS, VOCAB))
    with_, without = (
        median_seconds(functools.partial(copy_loop, constrained=flag), index, logits)
        for flag in (True, False)
    )
    return {
        "context_tokens": length,
        "index_build_ms": 1e3 * median_seconds(build, prompts),
        "step_with_ms": 1e3 * with_ / STEPS,
        "step_without_ms": 1e3 * without / STEPS,
        "constraint_ms": 1e3 * (with_ - without) / STEPS,
    }


def main() -> None:
    """Print the table; write it as JSON where `--out` says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8_192, 131_072])
    arguments = parser.parse_args()
    rows = [measure(length) for length in arguments.lengths]
    print(f"{ROWS} rows inside spans, vocabulary {VOCAB}, milliseconds a step")
    print("context tokens  index build  with constraint  without  difference")
    for row in rows:
        print(
            f"{row['context_tokens']:14d}  {row['index_build_ms']:11.1f}"
            f"  {row['step_with_ms']:15.2f}  {row['step_without_ms']:7.2f}"
            f"  {row['constraint_ms']:10.2f}"
        )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": describe_machine(), "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
