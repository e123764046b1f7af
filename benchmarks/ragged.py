"""What a step costs if responses are of different lengths, far below their limit.

    python -m benchmarks.ragged --out=runs/ragged.json

The model is a Llama of 4 layers and width 256, float32; 4 prompts x 8 responses of free text.
Medians; compilation is left out.

Update: one GRPO update, gradient and AdamW, a prompt at a time, with the packing of training. In
`full` all responses reach the limit; in `ragged` lengths are log-normal, with a mean of a fifth of
the limit and a deviation of 1; `tight` has as many tokens in responses of equal lengths under a
limit of just that length, so that nothing is padded. `ratio` is ragged over tight, and `waste` full
over tight: what the ratio would be if every response cost its limit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from benchmarks.grouped_update import CONFIG, LOSS, OPTIMIZER, RULES, VOCAB
from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.span_copy import prompts_of
from decoding.rollout import Rollout
from decoding.span_copy import index_prompts
from decoding.span_scores import Scoring
from recallm_jax.models.transformer import random_transformer
from rl.batch import Batch
from rl.learner import init_state, policy_update
from rl.packing import one_a_row, pack, row_sizes

PROMPTS, GROUP = 4, 8
# Prompt tokens, and the limit of responses.
CASES = ((256, 512), (1024, 1024), (4096, 1024))


def log_normal_lengths(limit: int) -> Int[np.ndarray, "B G"]:
    """Return log-normal lengths with a mean of about a fifth of the limit."""
    drawn = np.random.default_rng(0).lognormal(np.log(limit / 5) - 0.5, 1.0, (PROMPTS, GROUP))
    return np.clip(np.ceil(drawn), 1, limit).astype(np.int32)


def update_rows(repeats: int) -> list[dict]:
    """Measure updates, print a table, and return its rows."""
    print("update: prompt  limit  mean  longest  full s  ragged s  tight s  ratio  waste  padding")
    rows = []
    for prompt, limit in CASES:
        lengths = log_normal_lengths(limit)
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
        packing = pack(lengths, sizes, PROMPTS)
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


def main() -> None:
    """Print the tables, and write them as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    write_report(arguments.out, update_rows(arguments.repeats))


if __name__ == "__main__":
    main()
