"""SmolLM2-135M-Instruct on a mixture of categories: all ten, the synthetic ones, or one.

Result: not yet run to its end; `:tiny` on the synthetic mixture passes the tests.
Hardware: meant for one GPU of 80 GB; not tried on one.

    python -m recallm_jax.train --config=configs/mixture.py --workdir=runs/mixture
    python -m recallm_jax.report --workdir=runs/mixture

Variants: `:of=synthetic` (the default) needs no files. `:of=all` is the paper's seventeen data sets
in equal shares, and needs their files in `--config.data.dir` (docs/tasks.md); so do most single
categories, `:of=CATEGORY`, and `:of=own`, questions of your own. `:tiny` is a minute or two with a
random model on a CPU. `:length=4096` sets the length of the prompts: the default is 2,048 tokens,
or 7,168 if whole documents are in the mixture (QuALITY's, or your own). `:algorithm=ppo` as in
quickstart.py.
Shares: `--config.data.mixture.hotpotqa=2.0`, `--config.data.temperature=2.0`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(arg, tiny=False, algorithm="grpo", length=0, of="synthetic")
    config = common.one_gpu()
    choices = {"synthetic": common.SYNTHETIC, "all": common.PAPER, **common.CATEGORIES}
    if options.of not in choices:
        raise ValueError(
            f"variant of={options.of!r} is not a mixture; use any of {', '.join(choices)}"
        )
    config.data.mixture = common.mixture(*choices[options.of])

    # A prompt and its response must fit SmolLM2's context of 8,192 tokens.
    whole_documents = {"quality", "own_questions"} & set(choices[options.of])
    config.data.target_length = options.length or (7168 if whole_documents else 2048)
    config.decoding.max_new_tokens = 512

    # Whole documents have their own lengths, whatever the target.
    lengths = (config.data.target_length,) if whole_documents else (2048, 4096, 7168)
    config.evaluation.lengths = lengths

    if options.tiny:
        config = common.shrink(config)
        config.data.target_length = 1024
        config.evaluation.lengths = (1024,)
        config.decoding.max_new_tokens = 320
    common.use_algorithm(config, options.algorithm)
    return config
