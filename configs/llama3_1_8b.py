"""Llama-3.1-8B-Instruct with the paper's hyperparameters (arXiv 2604.09494).

Result: not yet run. It fits the TPUs named here, as their compiler says: docs/plan.md.
Hardware: a TPU slice v5p:4x4x4 (the default), or another of TOPOLOGIES.

    python -m recallm_jax.plan --config=configs/llama3_1_8b.py --topology=v5p:4x4x4
    python -m recallm_jax.train --config=configs/llama3_1_8b.py --workdir=runs/llama3_1_8b \
        --config.data.dir=DATA
    python -m recallm_jax.evaluate --config=configs/llama3_1_8b.py --workdir=runs/llama3_1_8b \
        --label=grpo --config.data.dir=DATA

The weights are a Hugging Face folder, `--config.model.weights=FOLDER`; `plan` needs none. The
mixture is all seventeen data sets in equal shares, and needs their files in `data.dir`
(docs/tasks.md). Prompts are filled up to 8,000 tokens, as the paper makes them.

Variants: `:topology=v6e:8x8` has the sizes for another slice; `:tiny` is a minute or two with a
random model on a CPU, on tasks that need no files; `:algorithm=dapo` as in quickstart.py;
`:experiment=ruler` evaluates as docs/reproduce.md says (`EXPERIMENTS` in common.py).
"""

from ml_collections import ConfigDict

from configs import common

# The chips along `sequence` share a prompt's tokens, and its 16 continuations, equally.
TOPOLOGIES = {
    "v5p:4x4x4": {"fsdp": 16, "sequence": 4, "rollout_parts": 1, "logits_chunk": 256},
    "v6e:8x8": {"fsdp": 8, "sequence": 8, "rollout_parts": 2, "logits_chunk": 512},
    "v5e:8x8": {"fsdp": 4, "sequence": 16, "rollout_parts": 4, "logits_chunk": 512},
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; see the module."""
    config = common.paper_scale()
    config.model.weights = "weights/Llama-3.1-8B-Instruct"
    config.model.preset = "llama-3.1-8b"
    config.grpo.steps = 60
    return common.paper_variant(config, arg, TOPOLOGIES)
