"""What a step costs if responses are of different lengths, far below their limit.

    python -m benchmarks.ragged --out=runs/ragged.json

The model is a Llama of 4 layers and width 256, float32; 4 prompts x 8 responses of free text.
Medians; compilation is left out.

Update: one GRPO update, gradient and AdamW, a prompt at a time, with the packing of training. In
`full` all responses reach the limit; in `ragged` lengths are log-normal, with a mean of a fifth of
the limit and a deviation of 1; `tight` has as many tokens in responses of equal lengths under a
limit of just that length, so that nothing is padded. `ratio` is ragged over tight, and `waste` full
over tight: what the ratio would be if every response cost its limit.

Rollout: the same lengths, given to the sampler as prefixes that end in a stop token; it samples all
the same. `ratio` is ragged over tight, per token. `living` is the sum, over the steps, of what a
step takes if only the rows that go on are decoded; the prefill is in all three. `memory` is the
most bytes of keys and values at a time, over those of the tokens of prompts and responses.

Steps: the time of one of 64 steps, after which all rows stop, under limits of 64 and more.
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from benchmarks.grouped_update import CONFIG, LOSS, OPTIMIZER, RULES, VOCAB
from benchmarks.lengths import free_text, log_normal_lengths
from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.span_copy import prompts_of
from decoding import driver
from decoding.decode_loop import Limits
from decoding.rollout import Rollout
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import index_prompts
from decoding.span_scores import Scoring
from recallm_jax.models.transformer import random_transformer
from rl.batch import Batch
from rl.learner import init_state, policy_update
from rl.packing import one_a_row, pack
from rl.row_sizes import row_sizes

PROMPTS, GROUP = 4, 8
# Prompt tokens, and the limit of responses.
CASES = ((256, 512), (1024, 1024), (4096, 1024))


def update_rows(repeats: int) -> list[dict]:
    """Measure updates, print a table, and return its rows."""
    print("update: prompt  limit  mean  longest  full s  ragged s  tight s  ratio  waste  padding")
    rows = []
    for prompt, limit in CASES:
        lengths = log_normal_lengths(limit, PROMPTS, GROUP)
        mean = -(-lengths.sum() // lengths.size)
        full = _update_seconds(prompt, limit, np.full_like(lengths, limit), repeats)[0]
        ragged, padding, sizes = _update_seconds(prompt, limit, lengths, repeats)
        tight = _update_seconds(prompt, mean, np.full_like(lengths, mean), repeats)[0]
        rows.append(
            {
                "prompt": prompt,
                "limit": limit,
                "mean": float(lengths.mean()),
                "longest": int(lengths.max()),
                "full_s": full,
                "ragged_s": ragged,
                "tight_s": tight,
                "padding": padding,
                "sizes": sizes,
            }
        )
        print(
            f"        {prompt:6d}  {limit:5d}  {lengths.mean():4.0f}  {lengths.max():7d}"
            f"  {full:6.2f}  {ragged:8.2f}  {tight:7.2f}  {ragged / tight:5.2f}"
            f"  {full / tight:5.1f}  {padding:7.0%}",
            flush=True,
        )
    return rows


def _update_seconds(
    prompt: int, limit: int, lengths: Int[np.ndarray, "B G"], repeats: int
) -> tuple[float, float, int]:
    """Return the seconds of an update, its padding in rows, and how many sizes of rows it has."""
    # Each compiled program holds memory maps, and their number in a process is limited.
    jax.clear_caches()
    limit = int(limit)
    rng = np.random.default_rng(0)
    prompts = prompts_of(PROMPTS, prompt, VOCAB)
    tokens = jnp.asarray(rng.integers(1, VOCAB - 2, (*lengths.shape, limit)), jnp.int32)
    index = jax.jit(index_prompts, static_argnums=(1, 2))(prompts, RULES, VOCAB)
    # The sampler's log-probabilities, so small that every importance weight is at its cap of 2.
    far = jnp.full(tokens.shape, -1e3, jnp.float32)
    rollout = Rollout(prompts, index, tokens, jnp.asarray(lengths), log_probs=far)
    advantages = jnp.asarray(rng.standard_normal((*lengths.shape, 1)), jnp.float32)
    if (lengths == limit).all():
        packing = one_a_row(*tokens.shape, num_parts=PROMPTS)
    else:
        sizes = row_sizes(limit=limit, group_size=GROUP, prompt_length=prompt)
        # A run has had other batches before this one.
        for seed in range(1, 9):
            before = log_normal_lengths(limit, PROMPTS, GROUP, seed=seed)
            sizes = sizes.chosen_for(before, PROMPTS)
        packing = pack(lengths, sizes.chosen_for(lengths, PROMPTS).chosen, PROMPTS)
    update = functools.partial(
        policy_update,
        batch=Batch(rollout, advantages),
        optimizer=OPTIMIZER,
        scoring=Scoring(rules=RULES, budget=limit + 1, temperature=1.0, chunk=64),
        loss=LOSS,
        packing=packing,
    )
    state, _ = update(init_state(random_transformer(CONFIG, jax.random.key(0)), OPTIMIZER))

    def again():
        nonlocal state
        state, metrics = update(state)
        return metrics, state.step

    return median_seconds(again, repeats), packing.padding_share, len(packing.runs)


def rollout_rows(repeats: int) -> list[dict]:
    """Measure rollouts, print a table, and return its rows."""
    print("rollout: prompt  limit  ragged s  tight s  living s  ratio  of living  memory")
    rows = []
    for prompt, limit in CASES:
        lengths = log_normal_lengths(limit, PROMPTS, GROUP)
        mean = int(-(-lengths.sum() // lengths.size))
        ragged, memory = _rollout_seconds(prompt, limit, lengths, repeats)
        tight, _ = _rollout_seconds(prompt, mean, np.full_like(lengths, mean), repeats)
        ratio = ragged / lengths.sum() / (tight / (mean * lengths.size))
        living = _living_seconds(prompt, limit, lengths, repeats)
        rows.append(
            {
                "prompt": prompt,
                "limit": limit,
                "ragged_s": ragged,
                "tight_s": tight,
                "living_s": living,
                "ratio": ratio,
                "over_living": ragged / living,
                "memory": memory,
            }
        )
        print(
            f"         {prompt:6d}  {limit:5d}  {ragged:8.2f}  {tight:7.2f}  {living:8.2f}"
            f"  {ratio:5.2f}  {ragged / living:9.2f}  {memory:6.2f}",
            flush=True,
        )
    return rows


def step_rows(repeats: int) -> list[dict]:
    """Measure steps under several limits, print a table, and return its rows."""
    print("steps: limit  ms a step  over that of 64")
    rows: list[dict] = []
    lengths = np.full((PROMPTS, GROUP), 64, np.int32)
    for limit in (64, 256, 1024, 4096):
        seconds = _step_seconds(256, limit, lengths, repeats)
        ratio = 1e3 * seconds / rows[0]["step_ms"] if rows else 1.0
        rows.append({"limit": limit, "step_ms": 1e3 * seconds, "ratio": ratio})
        print(f"       {limit:5d}  {1e3 * seconds:9.2f}  {ratio:15.2f}", flush=True)
    return rows


def _living_seconds(
    prompt: int, limit: int, lengths: Int[np.ndarray, "B G"], repeats: int
) -> float:
    """Return the time of the prefill and of steps with only the rows that go on.

    A step costs more when more tokens have been written, so the first 64 steps and the later ones
    are measured apart.
    """
    numbers, marks = (1, 2, 4, 8, 16, 32), (1, 64, int(lengths.max()))
    seconds = np.zeros((len(numbers), len(marks)))
    for row, number in enumerate(numbers):
        of_prompts = min(number, PROMPTS)
        for column, length in enumerate(marks):
            few = np.full((of_prompts, number // of_prompts), length, np.int32)
            seconds[row, column] = _rollout_seconds(prompt, limit, few, repeats)[0]
    of_a_step = np.diff(seconds, axis=1) / np.diff(marks)
    steps = np.arange(1, lengths.max())
    alive = (lengths.ravel()[:, None] > steps).sum(axis=0)
    early, late = (np.interp(alive, numbers, costs) for costs in of_a_step.T)
    return seconds[-1, 0] + float(np.where(steps < marks[1], early, late).sum())


def _step_seconds(prompt: int, limit: int, lengths: Int[np.ndarray, "B G"], repeats: int) -> float:
    """Return the time of a step of responses that have one length."""
    steps = int(lengths.max()) - 1
    whole, _ = _rollout_seconds(prompt, limit, lengths, repeats)
    return (whole - _rollout_seconds(prompt, limit, np.ones_like(lengths), repeats)[0]) / steps


def _rollout_seconds(
    prompt: int, limit: int, lengths: Int[np.ndarray, "B G"], repeats: int
) -> tuple[float, float]:
    """Return the seconds of a rollout with these lengths, and the memory of its caches."""
    jax.clear_caches()
    count, group_size = lengths.shape
    prompts = prompts_of(count, prompt, VOCAB)
    keys = row_keys(0, 0, np.arange(count), group_size)
    model = random_transformer(CONFIG, jax.random.key(0))
    held = [0]

    def go_on(policy, state, *arguments):
        cache = state.cache
        arrays = (cache.prompt_keys, cache.prompt_values, cache.keys, cache.values)
        held.append(sum(x.nbytes for x in jax.tree.leaves(arrays)))
        return run(policy, state, *arguments)

    run = driver.go_on
    call = functools.partial(
        driver.decode,
        model,
        prompts,
        keys,
        sampling=Sampling(temperature=1.0),
        limits=Limits(RULES, limit, stop_tokens=RULES.barriers),
        prefix=free_text(lengths, RULES.barriers[0], RULES.start_token),
    )
    with mock.patch.object(driver, "go_on", go_on):
        assert (np.asarray(call().lengths) == lengths).all()
    token = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4
    tokens = count * prompt + int(lengths.sum())
    return median_seconds(call, repeats), max(held) / token / tokens


def main() -> None:
    """Print the tables, and write them as JSON to `--out`."""
    tables = {"steps": step_rows, "rollout": rollout_rows, "update": update_rows}
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tables", nargs="+", choices=list(tables), default=list(tables))
    arguments = parser.parse_args()
    rows = [
        {"table": name, **row}
        for name in arguments.tables
        for row in tables[name](arguments.repeats)
    ]
    write_report(arguments.out, rows)


if __name__ == "__main__":
    main()
