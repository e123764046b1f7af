"""Write what transformers makes of configs and folders, for comparisons with our readers.

Run from the root of the repository, in the environment that `make_golden.py` describes:

    /tmp/golden/bin/python -m tests.golden.make_config_golden

Writes `transformers_configs.json` beside this file:
  versions     the versions that made it;
  defaults     for each family, the values of its config class for absent fields;
  keys         the fields of the config classes, and those of generation_config.json;
  ropes        rotary settings, with the frequencies [H/2] and the factor that they give;
  folders      for each variant of `tests/oracles/folder_variants.py`, the logits [V] of the last of
               `tokens`, in float32.
"""

import json
import pathlib
import tempfile

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from tests.oracles.folder_variants import VARIANTS

HERE = pathlib.Path(__file__).resolve().parent
CLASSES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
DEFAULTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Other fields of config.json, each with its rotary settings.
LONG = {"max_position_embeddings": 131072, "rope_theta": 1e6}
ROPES = [
    LONG | {"rope_scaling": YARN},
    # DeepSeek-R1-0528-Qwen3-8B
    LONG | {"rope_scaling": YARN | {"attn_factor": 0.8782488562869419}},
    LONG | {"rope_scaling": YARN | {"attention_factor": 0.8782488562869419}},
    LONG | {"rope_scaling": YARN | {"mscale": 0.707}},
    LONG | {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.707}},
    LONG | {"rope_scaling": YARN | {"mscale": 0.0, "mscale_all_dim": 1.0}},
    LONG | {"rope_scaling": YARN | {"truncate": False}},
    LONG | {"rope_scaling": YARN | {"truncate": None}},
    LONG | {"rope_scaling": YARN | {"factor": None}},
    LONG | {"rope_scaling": YARN | {"beta_fast": 16, "beta_slow": 2}},
    LONG | {"rope_scaling": YARN | {"beta_fast": None, "beta_slow": 0}},
    LONG | {"rope_scaling": YARN | {"factor": 1.0}},
    LONG | {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    LONG | {"rope_scaling": YARN, "original_max_position_embeddings": 16384},
    # A ramp whose bounds are equal, and one whose bounds are in the wrong order.
    LONG | {"rope_scaling": YARN | {"original_max_position_embeddings": 4, "beta_slow": 0.5}},
    LONG | {"rope_scaling": YARN | {"beta_fast": 1, "beta_slow": 32}},
    {"rope_parameters": YARN | {"rope_theta": 5e5}},
    {"rope_parameters": YARN},
    {"max_position_embeddings": 131072, "rope_theta": 5e5, "rope_scaling": LLAMA3},
    {"max_position_embeddings": 131072, "rope_scaling": LLAMA3 | {"factor": 32.0}},
    {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_theta": 1e5, "rope_scaling": None},
    {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": YARN},
    {},
]


def rope(fields: dict) -> dict:
    config = Qwen3Config(**json.loads(json.dumps(fields)), head_dim=64)
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        found = Qwen3RotaryEmbedding.compute_default_rope_parameters(config)
    else:
        found = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    return {"fields": fields, "frequencies": found[0].tolist(), "factor": float(found[1])}


def last_logits(make) -> list[float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "folder"
        make(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0, -1].tolist()


def main() -> None:
    keys = {key for made in CLASSES.values() for key in made().to_dict()}
    golden = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "defaults": {
            # As the class states them: Llama's null stands for a value that follows from others.
            family: {name: getattr(made, name, None) for name in DEFAULTS}
            for family, made in CLASSES.items()
        },
        "keys": {"config": sorted(keys), "generation": sorted(GenerationConfig().to_dict())},
        "tokens": TOKENS,
        "ropes": [rope(fields) for fields in ROPES],
        "folders": {name: last_logits(make) for name, make in VARIANTS.items()},
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in golden.items()]
    (HERE / "transformers_configs.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
