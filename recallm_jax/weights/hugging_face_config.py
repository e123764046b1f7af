"""Converting a Hugging Face config.json to a ModelConfig, and back."""

from typing import Any

from recallm_jax.models.presets import ModelConfig, RopeScaling
from recallm_jax.runtime.errors import UserError

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# Options of these architectures that the decoder lacks, with the value that turns each off.
_ABSENT_OPTIONS = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "use_sliding_window": False,
    "attention_bias": False,
}
_ROPE_FIELDS = {
    "default": set(),
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor", "beta_fast", "beta_slow", "original_max_position_embeddings"},
}


def read_config(fields: dict[str, Any], origin: str, *, dtype: str, remat: str) -> ModelConfig:
    """Read the sizes of a model from a config.json.

    It takes both spellings of rotary settings: `rope_theta` with `rope_scaling` (transformers 4),
    and `rope_parameters` (transformers 5).

    Raises:
      UserError: an architecture, option or rope type is not supported, or a field is missing.
    """

    def field(name: str) -> Any:
        if name not in fields:
            raise UserError(f"{origin} has no field {name!r}: fetch the checkpoint again")
        return fields[name]

    architectures = field("architectures")
    known = [name for name in architectures or [] if name in ARCHITECTURES]
    if len(known) != 1:
        raise UserError(
            f"{origin}: architecture {architectures} is not supported; "
            f"use one of {', '.join(ARCHITECTURES)}"
        )
    family = ARCHITECTURES[known[0]]
    for name, none in _ABSENT_OPTIONS.items():
        if name in fields and fields[name] != none:
            raise UserError(
                f"{origin}: {name} = {fields[name]!r} is not supported; only {none!r} is"
            )
    theta, scaling = _read_rope(fields, field, origin)
    num_heads = field("num_attention_heads")
    head_dim = fields["head_dim"] if fields.get("head_dim") else field("hidden_size") // num_heads
    return ModelConfig(
        family=family,
        vocab_rows=field("vocab_size"),
        width=field("hidden_size"),
        num_layers=field("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=field("num_key_value_heads"),
        head_dim=head_dim,
        mlp_dim=field("intermediate_size"),
        max_positions=_max_positions(field("max_position_embeddings"), scaling),
        rope_theta=theta,
        norm_eps=field("rms_norm_eps"),
        # If absent, the default of the architectures holds, which is untied.
        tie_embeddings=bool(fields.get("tie_word_embeddings")),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        rope_scaling=scaling,
        dtype=dtype,
        remat=remat,
    )


def _max_positions(stated: int, scaling: RopeScaling | None) -> int:
    # Qwen2.5 documents YaRN as an edit of rope_scaling only, so the trained length is still here.
    if scaling is not None and scaling.kind == "yarn":
        return max(stated, int(scaling.factor * scaling.original_max_positions))
    return stated


def _read_rope(fields, field, origin) -> tuple[float, RopeScaling | None]:
    if fields.get("rope_parameters"):
        settings = dict(fields["rope_parameters"])
        if "rope_theta" not in settings:
            raise UserError(f"{origin} has no field 'rope_parameters.rope_theta'")
        theta = settings.pop("rope_theta")
    else:
        settings = dict(fields.get("rope_scaling") or {})
        theta = field("rope_theta")
    # "type" is the older spelling of "rope_type"; some configs carry both.
    kinds = [settings.pop(name) for name in ("rope_type", "type") if name in settings]
    kind = kinds[0] if kinds else "default"
    if kind not in _ROPE_FIELDS:
        raise UserError(
            f"{origin}: rope type {kind!r} is not supported; use one of {', '.join(_ROPE_FIELDS)}"
        )
    settings = {name: value for name, value in settings.items() if value is not None}
    unknown = set(settings) - _ROPE_FIELDS[kind]
    if unknown:
        raise UserError(
            f"{origin}: rope options {sorted(unknown)} are not supported with rope type {kind!r}"
        )
    if kind == "default":
        return float(theta), None
    if "factor" not in settings:
        raise UserError(f"{origin} has no 'factor' for rope type {kind!r}")
    if "original_max_position_embeddings" in settings:
        original = settings.pop("original_max_position_embeddings")
    else:
        original = field("max_position_embeddings")
    numbers = {name: float(value) for name, value in settings.items()}
    return float(theta), RopeScaling(kind=kind, original_max_positions=int(original), **numbers)


def write_config(config: ModelConfig, *, param_dtype: str, eos_id: int) -> dict[str, Any]:
    """Return a model's config.json, in a spelling that transformers 4, 5 and vLLM read."""
    (architecture,) = [name for name, family in ARCHITECTURES.items() if family == config.family]
    fields = {
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
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": param_dtype,
        "eos_token_id": eos_id,
    }
    scaling = config.rope_scaling
    if scaling is not None:
        names = _ROPE_FIELDS[scaling.kind] - {"original_max_position_embeddings"}
        fields["rope_scaling"] = {
            "rope_type": scaling.kind,
            "original_max_position_embeddings": scaling.original_max_positions,
            **{name: getattr(scaling, name) for name in sorted(names)},
        }
    return fields
