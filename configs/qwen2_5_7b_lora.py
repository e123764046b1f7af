"""Qwen2.5-7B-Instruct on one TPU host: LoRA over a frozen bfloat16 model, else as qwen2_5_7b.py.

Result: not yet run, and not yet compiled whole: docs/lora.md says what is known.
Hardware: one host of eight chips, `v5e:2x4` (the default) or `v6e:2x4`.

    python -m recallm_jax.plan --config=configs/qwen2_5_7b_lora.py --topology=v5e:2x4
    python -m recallm_jax.train --config=configs/qwen2_5_7b_lora.py --workdir=runs/lora \
        --config.data.dir=DATA
    python -m recallm_jax.convert --config=configs/qwen2_5_7b_lora.py --workdir=runs/lora \
        --out=adapter --adapter

Weights and data are those of qwen2_5_7b.py. Learning rates are ten times those of full training, as
adapters need (arXiv 2106.09685); rank and rates are starting points, not yet measured at this size.

Variants: `:topology=v6e:2x4` has the sizes for another host, `:topology=gpu` those for one GPU of
80 GB; `:tiny`, `:algorithm=dapo` and `:experiment=ruler` as in qwen2_5_7b.py.
"""

from ml_collections import ConfigDict

from configs import common

# The 28 heads can be split over four chips, not over eight. Without `fsdp` and `sequence` training
# and decoding lay parameters out alike, so that one frozen model in memory serves both. The update
# on v5e has no room for half of it on each chip; there decoding gathers a copy.
TOPOLOGIES = {
    "v5e:2x4": {"fsdp": 2, "tensor": 4, "rollout_parts": 16, "logits_chunk": 512},
    "v6e:2x4": {"data": 2, "tensor": 4, "rollout_parts": 8, "logits_chunk": 512},
}
# One GPU of 80 GB, by arithmetic (docs/lora.md).
ONE_GPU = {"rollout_parts": 32, "logits_chunk": 512}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    config = common.paper_scale()
    config.model.weights = "weights/Qwen2.5-7B-Instruct"
    config.model.preset = "qwen2.5-7b"
    config.model.rope_scaling = "qwen2.5-yarn"
    config.model.param_dtype = "bfloat16"
    config.model.lora.rank = 32
    config.model.lora.alpha = 64.0
    config.sft1.learning_rate *= 10
    config.sft2.learning_rate *= 10
    config.optimizer.learning_rate *= 10
    config.grpo.steps = 150
    config = common.paper_variant(config, arg, TOPOLOGIES | {"gpu": ONE_GPU})
    if config.topology == "gpu":
        # `plan` knows the compilers of TPUs only.
        config.topology = ""
    return config
