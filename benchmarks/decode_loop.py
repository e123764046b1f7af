"""The whole decode loop of SmolLM2-135M: the cost of the constraint, and the savings of groups.

    python -m benchmarks.decode_loop --out=runs/decode_loop.json

Random weights of the true sizes, float32. Every row opens a span at once, copies to the maximum,
and opens the next, so that the constraint works in every step. The prompts' keys and values are
random too: only the loop is timed, and the prefill apart from it. The table has tokens a second of
1 prompt with 16 continuations, of the same loop without the constraint, and of 16 prompts with one
continuation each: medians of alternating runs. The ratio is the median over pairs of successive
runs, with the quartiles of these pairs. With `--layers=1` the constraint's time, in ms a step, is
not hidden by the scatter of the model's.
"""

import dataclasses
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.span_copy import prompts_of
from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from recallm_jax.models.kv_cache import PromptCache
from recallm_jax.models.presets import PRESETS
from recallm_jax.models.transformer import Transformer, random_transformer

CONFIG = dataclasses.replace(PRESETS["smollm2-135m"], unstack_decode=True)
ROWS = CONFIG.vocab_rows
RULES = SpanRules(ROWS - 2, ROWS - 1, ROWS, barriers=(0,))
GROUP = 16
# Pairs of runs for each run of 16 prompts, which takes several times as long.
SEPARATE_EVERY = 5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefilled:
    """A policy with given keys and values of its prompts."""

    model: Transformer
    hidden: jax.Array
    cache: PromptCache

    def prefill(self, prompts, lengths):
        """Return the given keys and values."""
        del prompts, lengths
        return self.hidden, self.cache

    def __getattr__(self, name):
        return getattr(self.model, name)


def wish(logits):
    """Let spans open as soon as they may, and end only where they must."""
    return logits.at[..., RULES.start_token].add(1e6).at[..., RULES.end_token].add(-1e6)


def prefilled(model: Transformer, prompts: Prompts) -> Prefilled:
    """Return the model with random keys and values for the prompts."""
    count, length = prompts.tokens.shape
    config = model.config
    shape = (config.num_layers, count, config.num_kv_heads, length, config.head_dim)
    rng = np.random.default_rng(0)
    one = jnp.asarray(rng.standard_normal(shape[2:], np.float32))
    values = jnp.broadcast_to(one[None, None], shape)
    hidden = jnp.asarray(rng.standard_normal((count, config.width), np.float32))
    return Prefilled(model, hidden, PromptCache(values, values, prompts.lengths))


def loop_seconds(policy: Prefilled, prompts: Prompts, group: int, new_tokens: int, rules) -> float:
    """Return the time of one call of the loop, compilation left out."""
    keys = row_keys(0, 0, np.arange(prompts.tokens.shape[0]), group)
    run = functools.partial(
        decode,
        policy,
        prompts,
        keys,
        sampling=Sampling(temperature=1.0),
        # No row stops: each span is followed by the next, and the barrier can't be copied.
        limits=Limits(rules, new_tokens, stop_tokens=(0,), processor=wish),
    )
    return median_seconds(run)


def measure(model: Transformer, length: int, new_tokens: int, repeats: int) -> dict:
    """Return the figures of one prompt length."""
    shared, separate = prompts_of(1, length, ROWS), prompts_of(GROUP, length, ROWS)
    unconstrained = dataclasses.replace(RULES, constrained=False)
    programs = {
        "constrained": (prefilled(model, shared), shared, GROUP, new_tokens, RULES),
        "unconstrained": (prefilled(model, shared), shared, GROUP, new_tokens, unconstrained),
        "separate": (prefilled(model, separate), separate, 1, new_tokens, RULES),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for arguments in programs.values():
        loop_seconds(*arguments)
    for repeat in range(repeats):
        # In both orders, so that a machine that slows down favours neither.
        pair = ("constrained", "unconstrained")[:: 1 - 2 * (repeat % 2)]
        for name in pair if repeat % SEPARATE_EVERY else (*pair, "separate"):
            times[name].append(loop_seconds(*programs[name]))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    pairs = [*zip(times["constrained"], times["unconstrained"], strict=True)]
    ratios = [a / b for a, b in pairs]
    prefill = jax.jit(lambda model, prompts: model.prefill(prompts.tokens, prompts.lengths)[0])
    jax.block_until_ready(prefill(model, shared))
    prefill_seconds = median_seconds(lambda: prefill(model, shared))
    generated = GROUP * new_tokens
    return {
        "prompt_tokens": length,
        "new_tokens": new_tokens,
        "constrained_over_unconstrained": statistics.median(ratios),
        "ratios": ratios,
        "difference_ms": statistics.median(1e3 * (a - b) / new_tokens for a, b in pairs),
        "step_ms": 1e3 * seconds["constrained"] / new_tokens,
        "shared_tokens_per_second": generated / seconds["constrained"],
        "separate_tokens_per_second": generated / seconds["separate"],
        "shared_over_separate": seconds["separate"] / seconds["constrained"],
        "prefill_of_one_prompt_s": prefill_seconds,
    }


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument(
        "--repeats",
        type=int,
        default=15,
        help=f"runs with and without; of 16 prompts one to every {SEPARATE_EVERY}",
    )
    parser.add_argument(
        "--layers",
        type=int,
        default=CONFIG.num_layers,
        help="fewer, to tell the constraint's time from the scatter of the model's",
    )
    arguments = parser.parse_args()
    config = dataclasses.replace(CONFIG, num_layers=arguments.layers)
    model = random_transformer(config, jax.random.key(0))
    print(
        f"SmolLM2-135M, {arguments.layers} layers, {GROUP} rows, {arguments.new_tokens} new tokens;"
        " the loop without prefill"
    )
    print(
        "prompt  ms a step  constrained/unconstrained (quartiles)  ms more  tokens/s 1x16  16x1"
        "  ratio  prefill s"
    )
    rows = []
    for length in arguments.lengths:
        row = measure(model, length, arguments.new_tokens, arguments.repeats)
        rows.append(row)
        low, median, high = statistics.quantiles(row["ratios"], n=4)
        print(
            f"{length:6d}  {row['step_ms']:9.1f}  {median:20.3f} ({low:.3f} to {high:.3f})"
            f"  {row['difference_ms']:6.2f}"
            f"  {row['shared_tokens_per_second']:13.1f}  {row['separate_tokens_per_second']:4.1f}"
            f"  {row['shared_over_separate']:5.2f}  {row['prefill_of_one_prompt_s']:9.2f}",
            flush=True,
        )
    write_report(arguments.out, rows, layers=arguments.layers)


if __name__ == "__main__":
    main()
