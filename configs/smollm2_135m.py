"""SmolLM2-135M-Instruct on the two retrieval tasks, at sizes meant for hours on one GPU.

Result: not yet run.
Hardware: meant for one GPU of 80 GB; not tried on one.

    python -m recallm_jax.train --config=configs/smollm2_135m.py --workdir=runs/smollm2_135m
    python -m recallm_jax.report --workdir=runs/smollm2_135m

Variants: `:tiny` is a minute with a random model on a CPU; `:length=2048` trains on longer
contexts; `:algorithm=ppo` as in quickstart.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False, algorithm="grpo", length=1024)
    if options.tiny and "length" in arg:
        raise ValueError("variant 'tiny' has a length of its own; leave out length")
    config = common.one_gpu()

    config.data.target_length = options.length
    config.decoding.max_new_tokens = 256
    config.sft2.steps = 60
    config.evaluation.lengths = (512, 1024, 2048, 4096)

    if options.tiny:
        config = common.shrink(config)
    common.use_algorithm(config, options.algorithm)
    return config
