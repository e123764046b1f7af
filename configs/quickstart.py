"""SmolLM2-135M-Instruct learns, from short prompts, to answer from long ones.

It is trained on prompts of 1,024 tokens, lists of keys and values and some plain documents, with a
cold start and a few steps of GRPO, and evaluated on lists of 1,024 and 4,096 tokens, before and
after.
Result: exact match 0 % at both lengths before, 92 % and 75 % after (n = 12 each; 2026-12-01). With
lists alone it took 13 minutes, installation included (2026-11-30); on a slow machine it takes three
times as long (docs/results/README.md).
Hardware: 2 CPU cores, 12 GiB (training used 10 GB).

    python -m recallm_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m recallm_jax.report --workdir=runs/quickstart

With another `data.mixture`, name its data sets in `evaluation.datasets`, or () for all.

Variants: `:tiny` is a minute with a random model; `:short` trains on two tasks with prompts of 224
tokens, as the recorded runs of docs/results/learning did; `:algorithm=rloo` trains with another
algorithm than GRPO: dr_grpo, rloo, dapo, gspo or ppo (configs/common.py).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False, short=False, algorithm="grpo")
    if options.tiny and options.short:
        raise ValueError("variant 'tiny' has sizes of its own; leave out short")
    config = common.base()

    config.model.unstack_decode = True
    config.model.remat = "dots"
    # Lists of pairs fill a prompt; a document has its own length.
    config.data.mixture = common.mixture("retrieval", own_questions=0.25)
    config.data.dir = common.PLAIN_DOCUMENTS
    config.data.target_length = 1024
    config.data.value_length = 6
    config.decoding.max_new_tokens = 128

    config.sft1.steps, config.sft1.batch_size, config.sft1.micro_batch = 4, 4, 2
    config.sft2.steps, config.sft2.batch_size, config.sft2.micro_batch = 10, 4, 2
    config.sft1.learning_rate = 2e-2
    config.sft2.learning_rate = 6e-4

    config.grpo.steps = 4
    config.checkpoint.every_steps = 5
    config.grpo.prompts_per_step = 2
    config.grpo.group_size = 8
    config.grpo.micro_batch = 1
    config.grpo.overlong_buffer = 0
    config.optimizer.learning_rate = 1e-5
    # The critic starts at 0 and has few steps to learn.
    config.ppo.value_learning_rate = 1e-4

    config.evaluation.lengths = (1024, 4096)
    config.evaluation.datasets = ("retrieval",)
    config.evaluation.num_examples = 12
    config.evaluation.batch_size = 12
    config.evaluation.modes = common.MODES[:1]
    config.evaluation.policies = ("start", "grpo", "ppo")

    if options.tiny or options.short:
        config = _short(config)
    if options.tiny:
        config = common.shrink(config)
    common.use_algorithm(config, options.algorithm)
    return config


def _short(config: ConfigDict) -> ConfigDict:
    """Return the variant with short prompts of two tasks."""
    config.model.remat = "full"
    config.data.mixture = common.mixture("retrieval", "math_retrieval")
    config.data.dir = ""
    config.data.target_length = 224
    config.data.terms = (1, 1)
    config.data.operators = "+-"
    config.decoding.max_new_tokens = 64
    config.sft1.micro_batch = 4
    config.sft2.batch_size, config.sft2.micro_batch = 8, 4
    config.grpo.steps, config.grpo.prompts_per_step, config.grpo.micro_batch = 10, 4, 2
    config.evaluation.lengths = (224,)
    config.evaluation.datasets = ()
    config.evaluation.num_examples = config.evaluation.batch_size = 24
    config.evaluation.policies = ("start", "cold_start", "grpo", "ppo")
    return config
