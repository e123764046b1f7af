"""A whole GRPO step of a small Llama, rollout and update, without rewards.

    python -m venv /tmp/tunix && /tmp/tunix/bin/pip install google-tunix==0.1.7 jax==0.10.2
    python -m benchmarks.grpo_step --peer=/tmp/tunix/bin/python --out=runs/grpo_step.json

4 layers, width 256, 4 heads, FFN 1,024, vocabulary 512, float32; 4 prompts x 8 continuations under
the span constraint; no KL penalty, one update a batch, nothing computed again in the backward pass.
Continuations run to their limit, or have log-normal lengths with a mean of a fifth of it; then they
are given, and sampled all the same. Tunix takes the same steps with its Llama3 class and its
sampler, without a constraint, each prompt once a continuation; its sampler is stopped when the
longest continuation is done, as its own end token would. It updates all prompts at once, or one at
a time where more would not fit into 24 GB. For each case it runs after us. Medians; compilation is
left out.
"""

import dataclasses
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from benchmarks.grouped_update import CONFIG, LOSS, OPTIMIZER, RULES, VOCAB
from benchmarks.lengths import free_text, log_normal_lengths
from benchmarks.report import make_parser, write_report
from benchmarks.run_peer import run_peer
from benchmarks.span_copy import prompts_of
from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.sampling import Sampling, row_keys
from decoding.span_scores import Scoring
from recallm_jax.models.transformer import random_transformer
from rl.batch import Batch
from rl.learner import init_state, policy_update
from rl.packing import one_a_row, pack
from rl.row_sizes import row_sizes

PROMPTS, GROUP = 4, 8
STOP = RULES.barriers[0]
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


@dataclasses.dataclass(frozen=True)
class Case:
    """The tokens of a prompt, the limit of responses, and whether all reach it."""

    prompt: int
    limit: int
    full: bool

    @property
    def lengths(self) -> Int[np.ndarray, "B G"]:
        """The tokens of each response."""
        if self.full:
            return np.full((PROMPTS, GROUP), self.limit, np.int32)
        return log_normal_lengths(self.limit, PROMPTS, GROUP)


CASES = (
    Case(256, 64, full=True),
    Case(1024, 64, full=True),
    Case(256, 512, full=False),
    Case(256, 512, full=True),
    Case(1024, 512, full=False),
    Case(1024, 512, full=True),
)


def our_seconds(case: Case, repeats: int) -> tuple[float, float]:
    """Return the median seconds of a rollout, and of a whole step."""
    lengths, limit = case.lengths, case.limit
    limits = Limits(RULES, limit, stop_tokens=() if case.full else (STOP,))
    prefix = None if case.full else free_text(lengths, STOP, RULES.start_token)
    # All prompts at once; each full response has a row of its own.
    packing = one_a_row(PROMPTS, GROUP, limit)
    if not case.full:
        sizes = row_sizes(limit=limit, group_size=GROUP, prompt_length=case.prompt)
        packing = pack(lengths, sizes.chosen_for(lengths, 1).chosen, 1)
    scoring = Scoring(rules=RULES, budget=limit, temperature=1.0, chunk=64)
    advantages = jnp.asarray(np.random.default_rng(0).standard_normal((PROMPTS, GROUP, 1)))
    state = init_state(random_transformer(CONFIG, jax.random.key(0)), OPTIMIZER)
    prompts = prompts_of(PROMPTS, case.prompt, VOCAB)
    times = []
    # The first two steps compile: the second has a policy that a program has made.
    for step in range(repeats + 2):
        keys = row_keys(0, step, np.arange(PROMPTS, dtype=np.uint32), GROUP)
        start = time.perf_counter()
        rollout = jax.block_until_ready(
            decode(
                state.policy,
                prompts,
                keys,
                sampling=Sampling(1.0),
                limits=limits,
                prefix=prefix,
            )
        )
        middle = time.perf_counter()
        assert (np.asarray(rollout.lengths) == lengths).all()
        batch = Batch(rollout, advantages.astype(jnp.float32))
        state, _ = jax.block_until_ready(
            policy_update(
                state, batch, optimizer=OPTIMIZER, scoring=scoring, loss=LOSS, packing=packing
            )
        )
        times.append((middle - start, time.perf_counter() - start))
    rollout, step = (statistics.median(column) for column in zip(*times[2:], strict=True))
    return rollout, step


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="a Python with google-tunix")
    parser.add_argument("--limits", type=int, nargs="+", help="cases with these limits alone")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, peer = [], {}
    tunix = "  Tunix: rollout s  update s  step s  ratio" if arguments.peer is not None else ""
    print(f"prompt  limit  mean  rollout s  update s  step s{tunix}")
    for case in CASES:
        if arguments.limits and case.limit not in arguments.limits:
            continue
        rollout, step = our_seconds(case, arguments.repeats)
        row = {
            "prompt": case.prompt,
            "limit": case.limit,
            "mean": float(case.lengths.mean()),
            "longest": int(case.lengths.max()),
            "rollout_s": rollout,
            "update_s": step - rollout,
            "step_s": step,
        }
        rows.append(row)
        line = f"{case.prompt:6d}  {case.limit:5d}  {case.lengths.mean():4.0f}"
        line += f"  {rollout:9.2f}  {step - rollout:8.2f}  {step:6.2f}"
        if arguments.peer is not None:
            peer = run_peer(
                arguments.peer,
                "tunix_peer.py",
                sizes=TUNIX_SIZES,
                prompts=PROMPTS,
                group=GROUP,
                length=case.prompt,
                limit=case.limit,
                lengths=case.lengths.ravel().tolist(),
                # 32 rows of 1,536 tokens need more than 24 GB.
                micro_batch=PROMPTS if case.prompt + case.limit <= 1088 else 1,
                repeats=arguments.repeats,
            )
            other, whole = peer.pop("seconds")
            row |= {"tunix_rollout_s": other, "tunix_step_s": whole}
            line += f"  {other:16.2f}  {whole - other:8.2f}  {whole:6.2f}  {whole / step:5.1f}"
        print(line, flush=True)
        write_report(arguments.out, rows, **peer)


if __name__ == "__main__":
    main()
