"""Small runs of the policy-gradient stages on a random model."""

from ml_collections import ConfigDict

from recallm_jax.config.load import load_config
from recallm_jax.policy.context import Context
from recallm_jax.policy.setup import set_up
from recallm_jax.training.stages import Stage, plan_stages

SMALL = [
    "--config.data.source=generated",
    "--config.data.mixture.math_retrieval=0",
    "--config.decoding.max_new_tokens=24",
    "--config.evaluation.modes=constrained-greedy",
    "--config.evaluation.num_examples=1",
    "--config.evaluation.batch_size=1",
    # High enough that a step's policy is measurably another.
    "--config.optimizer.learning_rate=1e-3",
]
UPDATES = ["prompts_per_step=4", "micro_batch=1", "minibatches=2", "epochs=2", "steps=3"]


def arguments(algorithm: str) -> list[str]:
    """Return the arguments of a run; "ppo-own" is PPO with a critic of its own."""
    stage = "ppo" if algorithm.startswith("ppo") else "grpo"
    name = algorithm.removesuffix("-own")
    found = [f"--config=configs/quickstart.py:tiny,algorithm={name}", *SMALL]
    found += [f"--config.stages=('{stage}',)", *(f"--config.{stage}.{one}" for one in UPDATES)]
    return found + ["--config.ppo.critic=own"] * algorithm.endswith("-own")


def dapo() -> tuple[ConfigDict, Context, Stage]:
    """Return config, context and stage of DAPO, with at most three draws a step."""
    config = load_config([*arguments("dapo"), "--config.grpo.max_draws=3"])
    context = set_up(config)
    (stage,) = plan_stages(config, context)
    return config, context, stage
