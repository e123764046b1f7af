"""The lost-in-thought probe: SmolLM2-135M-Instruct asked for values before and after reasoning.

Result: asked in words, it is right in 2 of 48 without a thought and in 0 of 48 after 64 to 1,024
tokens of thought. With the pair copied up to its value it is right in 13 without a thought, and in
7 to 9 of 48 after one; inside a recall span in 48 of 48, nearly by construction (2026-11-25,
docs/results/lost_in_thought/README.md).
Hardware: 2 CPU cores (3.2 GB were used), ten minutes.

    python -m recallm_jax.probe --config=configs/eval_lost_in_thought.py --workdir=runs/probe
    python -m recallm_jax.report --workdir=runs/probe

Variants: `:tiny` is a minute with a random model; `:length=1024` asks about longer contexts.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False, length=256)
    if options.tiny and "length" in arg:
        raise ValueError("variant 'tiny' has a length of its own; leave out length")
    config = common.base()

    config.model.unstack_decode = True
    config.data.source = "generated"
    config.data.value_length = 6
    config.probe.target_length = options.length
    config.probe.reasoning_tokens = (64, 128, 256, 512, 1024)
    config.probe.num_examples = 48
    config.probe.batch_size = 8
    config.probe.max_new_tokens = 24

    return common.shrink(config) if options.tiny else config
