"""Take GRPO steps with Tunix, and print the times as JSON.

`benchmarks.grpo_step` runs this script under another Python, which has google-tunix, so it imports
nothing of this project. Tunix's Llama3 has random weights in float32, its vanilla rollout is on the
trainer's mesh, and there is no KL penalty. Tunix takes prompts as text, so a tokenizer reads
numbers; its end token is past the vocabulary and never sampled, and the sampler is told how many
steps the longest response takes.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from importlib.metadata import version

import jax
import numpy as np
import optax
from flax import nnx
from tunix.models.llama3 import model as llama
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout


class Numbers:
    """A tokenizer of texts such as "12 7 305"."""

    def __init__(self, end: int):
        self._end = end

    def encode(self, text: str, **_) -> list[int]:
        """Return the numbers of a text."""
        return [int(word) for word in str(text).split()]

    def decode(self, ids, **_) -> str:
        """Return numbers as a text."""
        return " ".join(map(str, np.asarray(ids).tolist()))

    def pad_id(self) -> int:
        """Return the padding token, which no prompt has."""
        return 0

    def bos_id(self) -> int:
        """Return the token that begins a text."""
        return 1

    def eos_id(self) -> int:
        """Return the token that ends a response."""
        return self._end


def step_seconds(
    sizes: dict,
    *,
    prompts: int,
    group: int,
    length: int,
    limit: int,
    lengths: list[int],
    micro_batch: int,
    repeats: int,
) -> tuple[float, float]:
    """Return the median seconds of a rollout, and of a whole step."""
    model = llama.Llama3(llama.ModelConfig(**sizes), rngs=nnx.Rngs(0))
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-4, 0.9, 0.999, 1e-8, weight_decay=0.0)
    )
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=optimizer,
        eval_every_n_steps=10**6,
        max_steps=repeats + 2,
        mini_batch_size=prompts,
        train_micro_batch_size=micro_batch,
        rollout_micro_batch_size=prompts,
    )
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=limit,
        max_prompt_length=length,
        kv_cache_size=length + limit,
        temperature=1.0,
    )
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=model,
        tokenizer=Numbers(end=sizes["vocab_size"]),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            training_config=training,
            rollout_config=rollout,
        ),
    )
    sampled: list[float] = []
    ends: list[float] = []
    generate = cluster.generate

    @functools.wraps(generate)
    def timed(*arguments, **options):
        start = time.perf_counter()
        made = generate(*arguments, **options, max_generation_steps=max(lengths))
        sampled.append(time.perf_counter() - start)
        if [len(tokens) for tokens in made.tokens] != [max(lengths)] * (prompts * group):
            raise RuntimeError("other responses than were asked for")
        cut = [tokens[:size] for tokens, size in zip(made.tokens, lengths, strict=True)]
        return dataclasses.replace(made, tokens=cut)

    def reward(prompts, completions, **_):
        ends.append(time.perf_counter())
        return np.random.default_rng(len(ends)).standard_normal(len(completions)).tolist()

    cluster.generate = timed
    learner = grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        algo_config=grpo_learner.GRPOConfig(num_generations=group, num_iterations=1, beta=0.0),
        reward_fns=reward,
    )
    rng = np.random.default_rng(0)
    # The sampler adds a first token to each prompt.
    rows = rng.integers(2, sizes["vocab_size"], (repeats + 2, prompts, length - 1))
    learner.train(
        [{"prompts": np.array([" ".join(map(str, row)) for row in step])} for step in rows]
    )
    # A step is from reward to reward: an update and the next rollout. The first two steps compile.
    steps = np.diff(ends)[1:]
    return statistics.median(sampled[2:]), statistics.median(steps)


def main() -> None:
    """Time the steps, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=json.loads, required=True, help="fields of ModelConfig")
    parser.add_argument("--lengths", type=json.loads, required=True, help="of all responses")
    for name in ("--prompts", "--group", "--length", "--limit", "--micro_batch", "--repeats"):
        parser.add_argument(name, type=int, required=True)
    seconds = step_seconds(**vars(parser.parse_args()))
    print(json.dumps({"seconds": seconds, "google-tunix": version("google-tunix")}))


if __name__ == "__main__":
    main()
