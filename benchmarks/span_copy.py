"""The cost of the span constraint in a decoding step, and of a prompt's index.

    python -m benchmarks.span_copy --out=runs/span_copy.json

A jitted loop that masks, samples greedily, scores the token and moves the state machine, against
the same loop that only samples and scores; the difference is the cost of the constraint. Logits are
random, so no model is timed. 16 rows, vocabulary 152,064, Zipf-distributed ids. Every row stays in
one state: outside a span, opening a span, some tokens deep, or after the commonest token of the
context, which has the most next tokens.

The table also has, for the same rows, a vector of the places that still match, in NumPy (O(n) a
step, without a search), and llguidance's substring automaton if it is installed (`pip install
llguidance`): the first time in these states, and again with the states in its cache. Medians.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import llguidance_peer
from benchmarks.report import make_parser, median_seconds, write_report
from decoding.copy_source import CopySource
from decoding.prompts import Prompts
from decoding.sampling import Sampling, sample
from decoding.span_copy import (
    SpanRules,
    SpanState,
    advance,
    allowed_tokens,
    initial_state,
    mask_logits,
    start_source,
)
from decoding.suffix_index import SuffixIndex, build_index
from decoding.token_bits import unpack

VOCAB = 152_064
START, END = VOCAB - 2, VOCAB - 1
ROWS = 16
STEPS = 16
RULES = SpanRules(start_token=START, end_token=END, vocab_size=VOCAB, max_length=128)
DEPTHS = (1, 4, 16, 64)
# Tokens of a response, from which spans may also copy.
RESPONSE = 1024
# Every token begins a new character.
EDGES = {"prompt": b"", "prompt+response": bytes([1] * VOCAB)}


def zipf_prompts(length: int, seed: int = 0) -> Prompts:
    """Return one prompt whose tokens may all be copied."""
    tokens = np.random.default_rng(seed).zipf(1.2, length)
    # Ids past the vocabulary are drawn again, evenly.
    spare = np.random.default_rng(seed + 1).integers(0, START, length)
    return copyable_prompt(np.where(tokens < START, tokens, spare))


def prompts_of(count: int, length: int, num_rows: int) -> Prompts:
    """Return `count` prompts with ids below `num_rows` - 2, all of them copyable."""
    rows = [zipf_prompts(length, seed=number) for number in range(count)]
    prompts = jax.tree.map(lambda *fields: jnp.concatenate([*map(jnp.asarray, fields)]), *rows)
    return dataclasses.replace(prompts, tokens=1 + prompts.tokens % (num_rows - 3))


def copyable_prompt(tokens: np.ndarray) -> Prompts:
    """Return one prompt of these tokens, all of which may be copied."""
    everywhere = np.ones((1, len(tokens)), bool)
    return Prompts(
        tokens=tokens[None].astype(np.int32),
        lengths=np.array([len(tokens)], np.int32),
        copyable=everywhere,
        span_start=everywhere,
        span_end=everywhere,
    )


def build_milliseconds(tokens: np.ndarray) -> tuple[float, SuffixIndex]:
    """Return the time to index a context, and the index; all of the context may be copied."""
    prompts = jax.tree.map(jnp.asarray, copyable_prompt(tokens))
    build = jax.jit(functools.partial(build_index, num_rows=VOCAB, max_length=RULES.max_length))
    return 1e3 * seconds(build, prompts), build(prompts)


def other_contexts(length: int) -> dict[str, np.ndarray]:
    """Return contexts of other kinds, some of which are hard to sort."""
    rng = np.random.default_rng(3)
    return {
        "uniform ids": rng.integers(0, START, length),
        "all equal": np.full(length, 7),
        "two ids": rng.integers(0, 2, length),
        "300 tokens again and again": np.resize(rng.integers(0, START, 300), length),
    }


def scenarios(
    prompts: Prompts, source: CopySource, rules: SpanRules
) -> dict[str, tuple[SpanState, np.ndarray]]:
    """Return states of ROWS rows, and the tokens [ROWS, d] that each has copied."""
    text = np.asarray(prompts.tokens[0])
    rng = np.random.default_rng(2)
    free = initial_state(source, ROWS, RESPONSE)
    step = jax.jit(advance, static_argnames="rules")

    def after(copied: np.ndarray) -> tuple[SpanState, np.ndarray]:
        state = step(free, jnp.full((1, ROWS), START), source, rules=rules)
        for column in copied.T:
            state = step(state, jnp.asarray(column[None]), source, rules=rules)
        return state, copied

    found = {"no row inside a span": (free, np.zeros((ROWS, 0), np.int32))}
    found["opening"] = after(np.zeros((ROWS, 0), np.int32))
    commonest = np.bincount(text).argmax().astype(np.int32)
    found["behind the commonest token"] = after(np.full((ROWS, 1), commonest))
    for depth in DEPTHS:
        places = rng.integers(0, len(text) - depth, ROWS)
        found[f"{depth} deep"] = after(np.stack([text[p : p + depth] for p in places]))
    return found


@functools.partial(jax.jit, static_argnames=("rules", "constrained"))
def decoding_loop(source: CopySource, state: SpanState, logits, keys, rules, constrained: bool):
    """Take STEPS steps from the same state; return a sum, so that no work is optimised away."""

    def step(_, total):
        # Zero, which the compiler can't know: so each step depends on logits and state in the loop.
        zero = total // 1024
        moved = logits + zero.astype(jnp.float32)
        here = jax.tree.map(
            lambda field: field + zero if field.dtype == jnp.int32 else field, state
        )
        if constrained:
            moved = mask_logits(moved, here, source, rules)
        token, log_prob = sample(moved, keys, Sampling(temperature=0.0))
        total = total + token.sum() % 7 + log_prob.sum().astype(jnp.int32) % 7
        if constrained:
            moved_on = source.extend(here.places, token)
            after = advance(here, token, moved_on, rules)
            total = total + sum(field.sum() % 7 for field in jax.tree.leaves(after)).astype(
                jnp.int32
            )
            if moved_on.text is not None:
                total = total + moved_on.text.newest.sum() % 7
        return total % 1024

    return lax.fori_loop(0, STEPS, step, jnp.int32(0))


def still_matching_seconds(text: np.ndarray, copied: np.ndarray) -> float:
    """Return the time of one step of ROWS rows in NumPy: narrow, collect the tokens, mask."""
    depth = copied.shape[1]
    logits = np.zeros((ROWS, VOCAB), np.float32)
    matching = []
    for row in range(ROWS):
        still = np.ones(len(text) - depth, bool)
        for d in range(depth):
            still &= text[d : len(text) - depth + d] == copied[row, d]
        matching.append(still)

    def step():
        for row in range(ROWS):
            following = text[depth:][matching[row]]
            masked = np.full(VOCAB, -np.inf, np.float32)
            masked[following] = logits[row, following]
            token = following[0]
            matching[row] & (text[depth:] == token)

    return seconds(step)


def seconds(function: Callable, *arguments, repeats: int = 9) -> float:
    """Return the median time of a call, compilation left out."""
    jax.block_until_ready(function(*arguments))
    return median_seconds(lambda: function(*arguments), repeats)


def measure(length: int, copy_source: str) -> list[dict]:
    """Return the figures of one context length, in milliseconds."""
    rules = dataclasses.replace(RULES, copy_source=copy_source, edges=EDGES[copy_source])
    prompts = zipf_prompts(length)
    on_device = jax.tree.map(jnp.asarray, prompts)
    build_ms, index = build_milliseconds(prompts.tokens[0])
    num_bytes = sum(x.nbytes for x in jax.tree.leaves(index))
    source = start_source(on_device, index, ROWS, RESPONSE, rules)
    logits = jax.random.normal(jax.random.key(0), (1, ROWS, VOCAB))
    keys = jax.random.split(jax.random.key(1), (1, ROWS))
    text = np.asarray(prompts.tokens[0])
    peer = llguidance_peer.SubstringPeer(text, VOCAB) if llguidance_peer.installed() else None
    rows = []
    for name, (state, copied) in scenarios(prompts, source, rules).items():
        # Both alternate, so that other work of the machine affects both.
        pairs = [
            [
                seconds(
                    functools.partial(decoding_loop, rules=rules, constrained=flag),
                    *(source, state, logits, keys),
                    repeats=1,
                )
                for flag in (True, False)
            ]
            for _ in range(9)
        ]
        with_, without = (
            1e3 * statistics.median(column) / STEPS for column in zip(*pairs, strict=True)
        )
        most = source.most_next_tokens(state.places).max() if state.inside.any() else 0
        numpy_ms = None
        if copied.shape[1]:
            numpy_ms = 1e3 * still_matching_seconds(text, copied)
        first_ms = again_ms = None
        if peer is not None and state.inside.any() and copy_source == "prompt":
            words = allowed_tokens(state, source, rules, VOCAB)
            allowed = np.asarray(unpack(words, VOCAB))[0, :, : VOCAB - 2]
            first_ms, again_ms = llguidance_ms(peer, copied, np.asarray(logits[0]), allowed)
        rows.append(
            {
                "context_tokens": length,
                "index_build_ms": build_ms,
                "llguidance_build_ms": None if peer is None else 1e3 * peer.build_seconds,
                "index_bytes_per_token": num_bytes / length,
                "rows": name,
                "most_next_tokens": int(most),
                "step_with_ms": with_,
                "step_without_ms": without,
                "constraint_ms": with_ - without,
                "numpy_still_matching_ms": numpy_ms,
                "llguidance_first_ms": first_ms,
                "llguidance_again_ms": again_ms,
            }
        )
    return rows


def llguidance_ms(
    peer, copied: np.ndarray, logits: np.ndarray, allowed: np.ndarray
) -> tuple[float, float]:
    """Return llguidance's time of the first step from these rows, and the median of later ones.

    Raises:
      ValueError: it allows other tokens than we do, so that the times can't be compared.
    """
    times = []
    for _ in range(6):
        taken, others = peer.step_seconds(peer.rows(copied), logits)
        if not np.array_equal(others, allowed):
            row = int((others != allowed).any(axis=1).argmax())
            raise ValueError(
                f"row {row}: llguidance allows {others[row].sum()} tokens, and we others, "
                f"{allowed[row].sum()}"
            )
        times.append(1e3 * taken)
    return times[0], statistics.median(times[1:])


def cell(value: float | None) -> str:
    """Format a figure of the table, or blanks for None."""
    return " " * 7 if value is None else f"{value:7.2f}"


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_024, 8_192, 32_768, 131_072])
    parser.add_argument("--copy-source", default="prompt", choices=list(EDGES))
    arguments = parser.parse_args()
    rows = []
    print(f"{ROWS} rows, vocabulary {VOCAB}; milliseconds, a step")
    for length in arguments.lengths:
        measured = measure(length, arguments.copy_source)
        first = measured[0]
        print(
            f"\n{length} tokens: index built in {first['index_build_ms']:.1f} ms, "
            f"{first['index_bytes_per_token']:.1f} bytes a token"
        )
        if first["llguidance_build_ms"] is not None:
            print(f"llguidance's automaton built in {first['llguidance_build_ms']:.0f} ms")
        print("rows                        next tokens   with  without  constraint", end="")
        print("    NumPy  llguidance first    again")
        for row in measured:
            print(
                f"{row['rows']:27s}  {row['most_next_tokens']:10d}  {row['step_with_ms']:5.2f}"
                f"  {row['step_without_ms']:7.2f}  {row['constraint_ms']:10.2f}"
                f"  {cell(row['numpy_still_matching_ms'])}  {'':9s}"
                f"{cell(row['llguidance_first_ms'])}  {cell(row['llguidance_again_ms'])}"
            )
        rows += measured
    longest = max(arguments.lengths)
    builds = {
        name: build_milliseconds(tokens)[0] for name, tokens in other_contexts(longest).items()
    }
    print(f"\nindex of {longest} tokens of other kinds, ms:", end=" ")
    print(", ".join(f"{name} {build_ms:.0f}" for name, build_ms in builds.items()))
    write_report(
        arguments.out,
        rows,
        copy_source=arguments.copy_source,
        other_builds_ms=builds,
        llguidance=llguidance_peer.installed(),
    )


if __name__ == "__main__":
    main()
