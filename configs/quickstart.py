"""SmolLM2-135M-Instruct learns to answer from its context: cold start, GRPO, evaluation, report.

Result: exact match 0 % at the start, 46 % after the cold start, 60 % after GRPO (n = 48), in ten
minutes (2026-11-25, docs/results/README.md). With 36 steps of GRPO: 0, 49 and 65 % (n = 96).
Hardware: 2 CPU cores, 12 GiB (8.5 GB were used).

    python -m recallm_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m recallm_jax.report --workdir=runs/quickstart

Variants: `:tiny` is a minute with a random model; `:algorithm=rloo` trains with an algorithm other
than GRPO: dr_grpo, rloo, dapo, gspo or ppo (configs/common.py).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False, algorithm="grpo")
    config = common.base()

    config.model.unstack_decode = True
    config.data.target_length = 224
    config.data.value_length = 6
    config.data.terms = (1, 1)
    config.data.operators = "+-"
    config.decoding.max_new_tokens = 64

    config.sft1.steps, config.sft1.batch_size, config.sft1.micro_batch = 4, 4, 4
    config.sft2.steps, config.sft2.batch_size, config.sft2.micro_batch = 10, 8, 4
    config.sft1.learning_rate = 2e-2
    config.sft2.learning_rate = 6e-4

    config.grpo.steps = 10
    config.checkpoint.every_steps = 5
    config.grpo.prompts_per_step = 4
    config.grpo.group_size = 8
    config.grpo.micro_batch = 2
    config.grpo.overlong_buffer = 0
    config.optimizer.learning_rate = 1e-5
    # The critic starts at 0 and has few steps to learn.
    config.ppo.value_learning_rate = 1e-4

    config.evaluation.lengths = (224,)
    config.evaluation.num_examples = 24
    config.evaluation.batch_size = 24
    config.evaluation.modes = common.MODES[:1]

    if options.tiny:
        config = common.shrink(config)
    common.use_algorithm(config, options.algorithm)
    return config
