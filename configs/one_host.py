"""All parameters of a model of 0.1 to 1.5 billion, trained on one TPU host of eight chips.

Result: not yet run. All three fit `v5e:2x4`, as the TPU's compiler says (docs/plan.md); `v6e:2x4`,
with twice the memory, is not compiled yet.
Hardware: one host of eight chips, `v5e:2x4` (the default; type v5litepod-8) or `v6e:2x4` (v6e-8).

    python -m recallm_jax.plan --config=configs/one_host.py:model=qwen2.5-1.5b --topology=v6e:2x4
    python -m recallm_jax.train --config=configs/one_host.py --workdir=runs/one_host
    python -m recallm_jax.report --workdir=runs/one_host

The mixture is the five data sets that need no files. Learning rates of the Qwen2.5 models are
starting points, not measured.

Variants: `:model=qwen2.5-0.5b` and `:model=qwen2.5-1.5b` have prompts of 8,000 tokens and need
`--config.model.weights`, a Hugging Face folder; `smollm2-135m`, the default, has 4,096 and fetches
its weights. `:topology=v6e:2x4` has the sizes for another host; `:tiny` is a minute with a random
model on a CPU; `:algorithm=ppo` as in quickstart.py. A model of 7 billion: qwen2_5_7b_lora.py.
"""

from ml_collections import ConfigDict

from configs import common

# A model that leaves room on every chip is copied to each; the others are split over them. A chunk
# has the logits of 16 responses; Qwen's vocabulary is three times as large.
_COPIED = {"data": 8, "rollout_parts": 1, "logits_chunk": 384}
_SPLIT = {"fsdp": 8, "rollout_parts": 1, "logits_chunk": 128}
TOPOLOGIES = {
    "smollm2-135m": {"v5e:2x4": _COPIED, "v6e:2x4": _COPIED},
    "qwen2.5-0.5b": {"v5e:2x4": _SPLIT, "v6e:2x4": _SPLIT},
    "qwen2.5-1.5b": {"v5e:2x4": _SPLIT, "v6e:2x4": _SPLIT},
}
FOLDERS = {
    "qwen2.5-0.5b": "weights/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "weights/Qwen2.5-1.5B-Instruct",
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    options = common.parse_arg(
        arg, tiny=False, model="smollm2-135m", topology="v5e:2x4", algorithm="grpo"
    )
    if options.model not in TOPOLOGIES:
        raise ValueError(
            f"variant model={options.model!r} has no sizes here; use any of {', '.join(TOPOLOGIES)}"
        )
    config = common.one_gpu()
    config.data.mixture = common.mixture(*common.SYNTHETIC)
    # Prompts and responses within each model's context.
    if options.model == "smollm2-135m":
        config.data.target_length, config.decoding.max_new_tokens = 4_096, 1_024
        config.evaluation.lengths = (1_024, 2_048, 4_096, 7_168)
    else:
        config.model.weights, config.model.preset = FOLDERS[options.model], options.model
        config.data.target_length, config.decoding.max_new_tokens = 8_000, 2_048
        config.evaluation.lengths = (2_048, 4_096, 8_192, 16_384, 30_720)
        config.sft1.learning_rate, config.sft2.learning_rate = 1e-3, 2e-5
        config.optimizer.learning_rate = 1e-6
    config.grpo.overlong_buffer = config.decoding.max_new_tokens // 4
    config.evaluation.num_examples = 64
    config.checkpoint.every_steps = 10

    common.use_topology(config, options.topology, TOPOLOGIES[options.model])
    # Decoding reads the parameters once for all prompts of a chip.
    config.evaluation.batch_size *= 4
    if options.tiny:
        config = common.shrink(config)
        # Those that fit the tiny length.
        config.data.mixture = common.mixture("retrieval", "math_retrieval")
    common.use_algorithm(config, options.algorithm)
    return config
