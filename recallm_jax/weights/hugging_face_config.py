"""Converting a Hugging Face config.json to a ModelConfig, and back."""

import os
from typing import Any

from recallm_jax.models.presets import ModelConfig, RopeScaling
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import quantized
from recallm_jax.weights.config_keys import check_config
from recallm_jax.weights.rope_settings import read_rope, write_rope
from recallm_jax.weights.settings import Settings

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# Other names of the same models: those of the paper's release, and models without an output matrix.
_ALIASES = {
    "RecaLLMQwen2ForCausalLM": "qwen2",
    "RecaLLMLlamaForCausalLM": "llama",
    "LlamaModel": "llama",
    "Qwen2Model": "qwen2",
    "Qwen3Model": "qwen3",
}
_MODEL_TYPES = {
    **{family: family for family in ARCHITECTURES.values()},
    "recallm_qwen2": "qwen2",
    "recallm_llama": "llama",
}
_COMMON_DEFAULTS = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_QWEN_DEFAULTS = _COMMON_DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
# The values of absent fields: the defaults of LlamaConfig, Qwen2Config and Qwen3Config in
# transformers 5.24 (tests/golden/make_config_golden.py).
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _COMMON_DEFAULTS
    | {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "qwen2": _QWEN_DEFAULTS,
    "qwen3": _QWEN_DEFAULTS | {"head_dim": 128},
}


def read_config(fields: dict[str, Any], origin: str, *, dtype: str, remat: str) -> ModelConfig:
    """Read the sizes of a model from a config.json.

    An absent field has the value that transformers gives it.

    Args:
      fields: the object of the file.
      origin: the path of the file, for errors.

    Raises:
      UserError: the weights are quantized; an architecture, key, option or rope type is not
        supported; or a value is not of its type.
    """
    quantized.check_config(fields, os.path.dirname(origin) or origin)
    family = _family(fields, origin)
    check_config(fields, origin, family)
    settings = Settings(fields, origin, DEFAULTS[family])
    width, num_heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    # null is one head of keys for each of queries, whatever a missing field is.
    each = fields.get("num_key_value_heads", DEFAULTS[family].get("num_key_value_heads")) is None
    num_kv_heads = num_heads if each else settings.integer("num_key_value_heads")
    if num_heads % num_kv_heads:
        raise UserError(
            f"{origin}: num_key_value_heads = {num_kv_heads} does not divide num_attention_heads = "
            f"{num_heads}; take the config.json that belongs to the weights"
        )
    max_positions = settings.integer("max_position_embeddings")
    theta, scaling = read_rope(fields, origin, max_positions)
    return ModelConfig(
        family=family,
        vocab_rows=settings.integer("vocab_size"),
        width=width,
        num_layers=settings.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(settings, width, num_heads),
        mlp_dim=settings.integer("intermediate_size"),
        max_positions=_max_positions(max_positions, scaling),
        rope_theta=theta,
        norm_eps=settings.number("rms_norm_eps"),
        tie_embeddings=settings.flag("tie_word_embeddings"),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        rope_scaling=scaling,
        dtype=dtype,
        remat=remat,
    )


def _family(fields: dict[str, Any], origin: str) -> str:
    """Return the family that both `architectures` and `model_type` name; one of them may lack."""
    architectures, model_type = fields.get("architectures"), fields.get("model_type")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise UserError(
            f"{origin}: architectures = {architectures!r} is not a list of names; take the "
            "config.json that belongs to the weights"
        )
    if model_type is not None:
        model_type = Settings(fields, origin).text("model_type")
    families = ARCHITECTURES | _ALIASES
    if architectures:
        if len(architectures) != 1 or architectures[0] not in families:
            raise UserError(
                f"{origin}: architecture {architectures} is not supported; use a model with one of "
                f"{', '.join(families)}"
            )
        family = families[architectures[0]]
        if model_type is None or _MODEL_TYPES.get(model_type) == family:
            return family
        raise UserError(
            f"{origin}: model_type = {model_type!r} is not supported with architecture "
            f"{architectures}; only {family!r} is"
        )
    if model_type not in _MODEL_TYPES:
        raise UserError(
            f"{origin}: model_type = {model_type!r} is not supported, and there are no "
            f"architectures; use a model with one of {', '.join(_MODEL_TYPES)}"
        )
    return _MODEL_TYPES[model_type]


def _head_dim(settings: Settings, width: int, num_heads: int) -> int:
    if settings.get("head_dim") is not None:
        head_dim = settings.integer("head_dim")
    elif width % num_heads:
        raise UserError(
            f"{settings.origin}: hidden_size = {width} is not a multiple of num_attention_heads = "
            f"{num_heads}, and there is no head_dim; take the config.json that belongs to the "
            "weights"
        )
    else:
        head_dim = width // num_heads
    if head_dim % 2:
        raise UserError(
            f"{settings.origin}: head_dim = {head_dim} is odd, but rotary embeddings rotate pairs"
        )
    return head_dim


def _max_positions(stated: int, scaling: RopeScaling | None) -> int:
    # Qwen2.5 documents YaRN as an edit of rope_scaling only, so the trained length is still here.
    if scaling is not None and scaling.kind == "yarn":
        return max(stated, int(scaling.factor * scaling.original_max_positions))
    return stated


def write_config(config: ModelConfig, *, param_dtype: str) -> dict[str, Any]:
    """Return a model's config.json, in a spelling that transformers 4, 5 and vLLM read.

    It lacks the ids of special tokens (`special_ids.exported_ids`).
    """
    (architecture,) = [name for name, family in ARCHITECTURES.items() if family == config.family]
    return {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_rows,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": write_rope(config.rope_scaling),
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": param_dtype,
    }
