"""A whole GRPO step of a small Llama, rollout and update, without rewards.

    python -m venv /tmp/tunix && /tmp/tunix/bin/pip install google-tunix==0.1.7 jax==0.10.2
    python -m benchmarks.grpo_step --peer=/tmp/tunix/bin/python --out=runs/grpo_step.json

4 layers, width 256, 4 heads, FFN 1,024, vocabulary 512, float32; 4 prompts x 8 continuations of 64
tokens that never stop, under the span constraint; no KL penalty, one update a batch, nothing
computed again in the backward pass. Tunix takes the same steps with its Llama3 class and its
sampler, without a constraint, each prompt once a continuation. For each length it runs after us.
Medians; compilation is left out.
"""

import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.grouped_update import CONFIG, LOSS, OPTIMIZER, RULES, VOCAB
from benchmarks.report import make_parser, write_report
from benchmarks.run_peer import run_peer
from benchmarks.span_copy import prompts_of
from decoding.decode_loop import Limits, decode
from decoding.sampling import Sampling, row_keys
from decoding.span_scores import Scoring
from recallm_jax.models.transformer import random_transformer
from rl.batch import Batch
from rl.learner import init_state, policy_update
from rl.packing import one_a_row

PROMPTS, GROUP, NEW = 4, 8, 64
LIMITS = Limits(RULES, NEW, stop_tokens=())
# The same sizes by the names of Tunix's ModelConfig.
TUNIX_SIZES = {
    "num_layers": CONFIG.num_layers,
    "vocab_size": CONFIG.vocab_rows,
    "embed_dim": CONFIG.width,
    "hidden_dim": CONFIG.mlp_dim,
    "num_heads": CONFIG.num_heads,
    "head_dim": CONFIG.head_dim,
    "num_kv_heads": CONFIG.num_kv_heads,
    "rope_theta": CONFIG.rope_theta,
    "norm_eps": CONFIG.norm_eps,
    "weight_tying": CONFIG.tie_embeddings,
}
# All prompts at once, each response in a row of its own: all are full.
PACKING = one_a_row(PROMPTS, GROUP, NEW)
SCORING = Scoring(rules=RULES, budget=NEW, temperature=1.0, chunk=64)


def our_seconds(length: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds of a rollout, and of a whole step."""
    advantages = jnp.asarray(np.random.default_rng(0).standard_normal((PROMPTS, GROUP, 1)))
    state = init_state(random_transformer(CONFIG, jax.random.key(0)), OPTIMIZER)
    prompts = prompts_of(PROMPTS, length, VOCAB)
    times = []
    for step in range(repeats + 1):
        keys = row_keys(0, step, np.arange(PROMPTS, dtype=np.uint32), GROUP)
        start = time.perf_counter()
        rollout = jax.block_until_ready(
            decode(state.policy, prompts, keys, sampling=Sampling(1.0), limits=LIMITS)
        )
        middle = time.perf_counter()
        batch = Batch(rollout, advantages.astype(jnp.float32))
        state, _ = jax.block_until_ready(
            policy_update(
                state, batch, optimizer=OPTIMIZER, scoring=SCORING, loss=LOSS, packing=PACKING
            )
        )
        times.append((middle - start, time.perf_counter() - start))
    rollout, step = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return rollout, step


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="a Python with google-tunix")
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, peer = [], {}
    tunix = "  Tunix: rollout s  update s  step s  ratio" if arguments.peer is not None else ""
    print(f"prompt  rollout s  update s  step s{tunix}")
    for length in arguments.prompts:
        rollout, step = our_seconds(length, arguments.repeats)
        rows.append(
            {"prompt": length, "rollout_s": rollout, "update_s": step - rollout, "step_s": step}
        )
        line = f"{length:6d}  {rollout:9.2f}  {step - rollout:8.2f}  {step:6.2f}"
        if arguments.peer is not None:
            peer = run_peer(
                arguments.peer,
                "tunix_peer.py",
                sizes=TUNIX_SIZES,
                prompts=PROMPTS,
                group=GROUP,
                length=length,
                new=NEW,
                repeats=arguments.repeats,
            )
            other, whole = peer.pop("seconds")
            rows[-1] |= {"tunix_rollout_s": other, "tunix_step_s": whole}
            line += f"  {other:16.2f}  {whole - other:8.2f}  {whole:6.2f}  {whole / step:5.1f}"
        print(line, flush=True)
    write_report(arguments.out, rows, **peer)


if __name__ == "__main__":
    main()
