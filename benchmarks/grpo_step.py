"""A whole GRPO step of a small Llama: rollout, rewards left out, and update.

    python -m benchmarks.grpo_step --out=runs/grpo_step.json

4 layers, width 256, 4 heads, FFN 1,024, vocabulary 512, float32; 4 prompts x 8 continuations of 64
tokens that never stop, under the span constraint; no KL penalty, one update a batch. At these sizes
Tunix (google-tunix, its Llama3 class, without a constraint) took 6.0 to 6.3 s a step with prompts
of 256 tokens (rollout 2.1 to 2.2, update 4.0) and 31 s with 1,024, on a machine of this kind when
this work was planned. Medians; compilation left out.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.grouped_update import CONFIG, LOSS, OPTIMIZER, RULES, VOCAB
from benchmarks.report import write_report
from benchmarks.span_copy import zipf_prompts
from decoding.decode_loop import Limits, decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from recallm_jax.models.transformer import random_transformer
from rl.batch import Batch, Responses
from rl.learner import Scoring, init_state, policy_update

PROMPTS, GROUP, NEW = 4, 8, 64
LIMITS = Limits(RULES, NEW, stop_tokens=())
SCORING = Scoring(rules=RULES, budget=NEW, temperature=1.0, chunk=64)


def prompts_of(length: int) -> Prompts:
    """Return the prompts, all of whose tokens may be copied."""
    rows = [zipf_prompts(length, seed=number) for number in range(PROMPTS)]
    prompts = jax.tree.map(lambda *fields: jnp.concatenate([*map(jnp.asarray, fields)]), *rows)
    return dataclasses.replace(prompts, tokens=1 + prompts.tokens % (VOCAB - 3))


def main() -> None:
    """Print the table; write it as JSON where `--out` says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    advantages = jnp.asarray(np.random.default_rng(0).standard_normal((PROMPTS, GROUP, 1)))
    rows = []
    print("prompt  rollout s  update s  step s")
    for length in arguments.prompts:
        state = init_state(random_transformer(CONFIG, jax.random.key(0)), OPTIMIZER)
        prompts = prompts_of(length)
        times = []
        for step in range(arguments.repeats + 1):
            keys = row_keys(0, step, np.arange(PROMPTS, dtype=np.uint32), GROUP)
            start = time.perf_counter()
            decoded, index = jax.block_until_ready(
                decode(state.policy, prompts, keys, sampling=Sampling(1.0), limits=LIMITS)
            )
            middle = time.perf_counter()
            responses = Responses(prompts, index, decoded.responses, decoded.lengths)
            batch = Batch(responses, advantages.astype(jnp.float32), decoded.log_probs, None, None)
            state, _ = jax.block_until_ready(
                policy_update(
                    state, batch, optimizer=OPTIMIZER, scoring=SCORING, loss=LOSS, num_parts=1
                )
            )
            times.append((middle - start, time.perf_counter() - middle))
        rollout, update = (statistics.median(column) for column in zip(*times[1:], strict=True))
        whole = statistics.median(sum(pair) for pair in times[1:])
        rows.append({"prompt": length, "rollout_s": rollout, "update_s": update, "step_s": whole})
        print(f"{length:6d}  {rollout:9.2f}  {update:8.2f}  {whole:6.2f}", flush=True)
    write_report(arguments.out, rows)


if __name__ == "__main__":
    main()
