"""An adapter for SmolLM2-135M-Instruct that quotes plain documents and answers questions on them.

A cold start, without GRPO, on the questions of examples/plain_documents, on `retrieval` and on
`multi_niah`, in prompts of 350 to 1,100 tokens.
Result: 10 of 50 held-out questions right, a quote that holds the answer for 13, none without it
(2026-12-01); the adapter is the one in the box, recallm_jax/answering/plain_documents.
Hardware: 2 CPU cores, 7 GiB of memory; 101 minutes on a slow machine.

    python -m recallm_jax.train --config=configs/plain_documents.py --workdir=runs/plain_documents
    python -m recallm_jax.convert --config=configs/plain_documents.py \
        --workdir=runs/plain_documents --out=adapter --adapter --param-dtype=bfloat16

Variant: `:tiny` is a minute with a random model.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False)
    config = common.base()
    config.stages = ("sft1", "sft2")
    config.model.unstack_decode = True
    config.model.remat = "dots"
    config.model.lora.rank = 8
    config.model.lora.alpha = 16.0

    config.data.dir = common.PLAIN_DOCUMENTS
    # A document has its own length; lists of pairs and essays are filled up to the target.
    config.data.mixture = common.mixture(own_questions=1.0, retrieval=0.3, multi_niah=0.2)
    config.data.target_length = 1100
    config.data.value_length = 6
    # Several needles take 700 tokens to quote.
    config.decoding.max_new_tokens = 768

    config.sft1.steps, config.sft1.batch_size, config.sft1.micro_batch = 4, 4, 2
    config.sft2.steps, config.sft2.batch_size, config.sft2.micro_batch = 100, 4, 2
    config.sft1.learning_rate = 2e-2
    config.sft2.learning_rate = 2e-3
    config.checkpoint.every_steps = 10

    config.evaluation.lengths = (1100,)
    config.evaluation.num_examples = 50
    config.evaluation.batch_size = 10
    config.evaluation.modes = common.MODES[:1]
    config.evaluation.policies = ("cold_start",)
    if options.tiny:
        config = common.shrink(config)
        # Without files.
        config.data.mixture = common.mixture("retrieval")
    return config
