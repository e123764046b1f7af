"""The update in the grouped layout against the same update with each prompt repeated G times.

    python -m benchmarks.grouped_update --out=runs/grouped_update.json

One GRPO update, gradient and AdamW, of one prompt with G responses, all rows full, float32, in two
layouts: as in training, one group that shares its prompt, and G groups of one. Both compute the
same loss. The model is a Llama of 4 layers and width 256, so that the longest case fits a small
machine. `expected` is the ratio of tokens, G (S + T) / (S + G T); attention changes it either way.
Medians, compilation left out. Memory is XLA's temporary memory for the gradient, without arguments
and results.
Repeated prompts that don't fit into free memory run in as few micro-batches as fit (`parts`).
"""

import dataclasses
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import make_parser, write_report
from benchmarks.span_copy import prompts_of
from decoding.rollout import Rollout
from decoding.span_copy import SpanRules, index_prompts
from decoding.span_scores import Scoring
from recallm_jax.models.transformer import random_transformer
from recallm_jax.policy.tiny import TINY
from rl.batch import Batch
from rl.learner import PolicyLoss, init_state, policy_gradient, policy_update
from rl.micro_batches import parts_of, shardings_of
from rl.optimizer import Schedule, adamw
from rl.packing import one_a_row

VOCAB = 512
CONFIG = dataclasses.replace(
    TINY,
    vocab_rows=VOCAB,
    width=256,
    num_layers=4,
    num_kv_heads=4,
    head_dim=64,
    mlp_dim=1024,
    max_positions=8192,
    # The model is small enough to compute nothing again in the backward pass.
    remat="none",
)
RULES = SpanRules(VOCAB - 2, VOCAB - 1, VOCAB, barriers=(0,))
LOSS = PolicyLoss(clip_low=0.2, clip_high=0.2, kl_coefficient=0.0, importance_cap=2.0)
OPTIMIZER = adamw(
    Schedule(1e-4, 100, 0.0), b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=1.0
)


def batch_of(group: int, prompt: int, new: int, *, shared: bool) -> Batch:
    """Return full rows of free text: one group if `shared`, else G groups of one."""
    prompts = prompts_of(1, prompt, VOCAB)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, VOCAB - 2, (1, group, new)), jnp.int32)
    advantages = jnp.asarray(rng.standard_normal((1, group, 1)), jnp.float32)
    if not shared:
        prompts = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), prompts)
        tokens, advantages = tokens.swapaxes(0, 1), advantages.swapaxes(0, 1)
    index = jax.jit(index_prompts, static_argnums=(1, 2))(prompts, RULES, VOCAB)
    lengths = jnp.full(tokens.shape[:2], new, jnp.int32)
    # The sampler's log-probabilities, so small that every importance weight is at its cap of 2.
    far = jnp.full(tokens.shape, -1e3, jnp.float32)
    return Batch(Rollout(prompts, index, tokens, lengths, log_probs=far), advantages)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The micro-batches of an update, its temporary memory, its time, and its first loss."""

    parts: int
    temporary_mb: float
    seconds: float
    loss: float


def measure(batch: Batch, new: int, repeats: int) -> Measured | None:
    """Measure an update on a batch of responses of `new` tokens; None if it does not fit."""
    options: dict[str, Any] = {
        "optimizer": OPTIMIZER,
        "scoring": Scoring(rules=RULES, budget=new + 1, temperature=1.0, chunk=64),
        "loss": LOSS,
    }
    state = init_state(random_transformer(CONFIG, jax.random.key(0)), OPTIMIZER)
    num_prompts = len(batch.rollout.lengths)
    for parts in (parts for parts in range(1, num_prompts + 1) if num_prompts % parts == 0):
        packing = one_a_row(*batch.rollout.tokens.shape, num_parts=parts)
        (whole,) = parts_of(packing, packing.slots)
        total = state.policy if parts > 1 else None
        arguments = (state.policy, batch, whole, total)
        settings = {"scoring": options["scoring"], "shardings": shardings_of(state.policy)}
        program = policy_gradient.lower(*arguments, loss=LOSS, **settings)
        memory = program.compile().memory_analysis()
        assert memory is not None, "this backend does not report memory"
        temporary_mb = memory.temp_size_in_bytes / 1e6
        if temporary_mb < free_mb():
            break
    else:
        return None

    def update(state):
        return policy_update(state, batch, packing=packing, **options)

    state, metrics = jax.block_until_ready(update(state))
    first = float(metrics["loss"])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(update(state))
        times.append(time.perf_counter() - start)
    return Measured(parts, temporary_mb, statistics.median(times), first)


def free_mb() -> float:
    """Return the memory that Linux calls available."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(kilobytes) / 1e3


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--responses", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(
        " G   prompt  response  grouped s  repeated s  parts  ratio  expected  grouped MB"
        "  repeated MB"
    )
    rows = []
    for group, prompt, new in itertools.product(
        arguments.groups, arguments.prompts, arguments.responses
    ):
        shared, alone = (
            measure(batch_of(group, prompt, new, shared=one), new, arguments.repeats)
            for one in (True, False)
        )
        if shared is None or alone is None:
            print(f"{group:2d}  {prompt:6d}  {new:8d}  not run: too little memory is free")
            continue
        assert np.isclose(shared.loss, alone.loss, rtol=1e-3, atol=1e-4), (shared, alone)
        expected = group * (prompt + new) / (prompt + group * new)
        rows.append(
            {
                "group": group,
                "prompt": prompt,
                "response": new,
                "grouped_s": shared.seconds,
                "repeated_s": alone.seconds,
                "repeated_parts": alone.parts,
                "expected_ratio": expected,
                "grouped_temporary_mb": shared.temporary_mb,
                "repeated_temporary_mb": alone.temporary_mb,
            }
        )
        print(
            f"{group:2d}  {prompt:6d}  {new:8d}  {shared.seconds:9.2f}  {alone.seconds:10.2f}"
            f"  {alone.parts:5d}  {alone.seconds / shared.seconds:5.1f}  {expected:8.1f}"
            f"  {shared.temporary_mb:10.0f}  {alone.temporary_mb:11.0f}",
            flush=True,
        )
    write_report(arguments.out, rows)


if __name__ == "__main__":
    main()
