"""The parameters of a decoder: their shapes, the logical name of each axis, and initial values."""

import dataclasses
import math
from collections.abc import Mapping

import jax
from jaxtyping import Array

from recallm_jax.models.presets import ModelConfig

# What is added to rows of the embedding, and of an untied output matrix, that are trained.
ADDED_ROWS = ("embedding_rows", "output_rows")
# Arrays by name; only their shapes in a model that is planned for and not computed.
Params = Mapping[str, Array | jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """The shape of a parameter, the logical name of each axis, and its initial distribution."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    # The standard deviation of the initial values, which are normal. Norm scales have `mean` 1.
    scale: float
    mean: float = 0.0


def top_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Return the parameters outside the layers."""
    matrix = ParamSpec((config.vocab_rows, config.width), ("vocab", "embed"), 0.02)
    specs = {
        "embedding": matrix,
        "final_norm": ParamSpec((config.width,), (None,), 0.0, mean=1.0),
    }
    if not config.tie_embeddings:
        specs["output"] = matrix
    return specs | {name: spec for name, spec in adapter_specs(config).items() if _is_top(name)}


def layer_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Return the parameters of the stacked layers; the leading axis is the layer."""
    width, mlp, head_dim = config.width, config.mlp_dim, config.head_dim
    query, key = config.num_heads * head_dim, config.num_kv_heads * head_dim
    small = 0.02 / math.sqrt(2 * config.num_layers)

    def matrix(rows, columns, axes, scale=0.02):
        return ParamSpec((config.num_layers, rows, columns), ("layers", *axes), scale)

    def vector(size, axis, mean):
        return ParamSpec((config.num_layers, size), ("layers", axis), 0.0, mean)

    specs = {
        "attention_norm": vector(width, None, 1.0),
        "query": matrix(width, query, ("embed", "heads")),
        "key": matrix(width, key, ("embed", "kv_heads")),
        "value": matrix(width, key, ("embed", "kv_heads")),
        "attention_output": matrix(query, width, ("heads", "embed"), small),
        "mlp_norm": vector(width, None, 1.0),
        "gate": matrix(width, mlp, ("embed", "mlp")),
        "up": matrix(width, mlp, ("embed", "mlp")),
        "down": matrix(mlp, width, ("mlp", "embed"), small),
    }
    if config.qkv_bias:
        specs["query_bias"] = vector(query, "heads", 0.0)
        specs["key_bias"] = vector(key, "kv_heads", 0.0)
        specs["value_bias"] = vector(key, "kv_heads", 0.0)
    if config.qk_norm:
        specs["query_norm"] = vector(head_dim, None, 1.0)
        specs["key_norm"] = vector(head_dim, None, 1.0)
    return specs | {name: spec for name, spec in adapter_specs(config).items() if not _is_top(name)}


def adapter_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Return the parameters that are trained in place of a frozen model's; {} without adapters.

    A is drawn with the variance of PEFT's, 1 / (3 in); B is 0, so that a model begins unchanged.
    """
    lora = config.lora
    if lora is None:
        return {}
    whole = dataclasses.replace(config, lora=None)
    rows = ParamSpec((len(lora.rows), config.width), (None, None), 0.0)
    specs = {"embedding_rows": rows} if config.tie_embeddings else dict.fromkeys(ADDED_ROWS, rows)
    for name in lora.matrices:
        spec = layer_specs(whole)[name]
        (layers, size, columns), (_, axis, other) = spec.shape, spec.axes
        a_scale = (3 * size) ** -0.5
        specs[f"{name}_a"] = ParamSpec((layers, size, lora.rank), ("layers", axis, None), a_scale)
        specs[f"{name}_b"] = ParamSpec((layers, lora.rank, columns), ("layers", None, other), 0.0)
    return specs


def _is_top(name: str) -> bool:
    return name in ADDED_ROWS


def divided_sizes(config: ModelConfig, spec: ParamSpec) -> list[int]:
    """Return the number of units of each axis that can't be cut: heads, or single entries."""
    heads = {"heads": config.num_heads, "kv_heads": config.num_kv_heads}
    return [heads.get(axis or "", size) for axis, size in zip(spec.axes, spec.shape, strict=True)]


def draw(specs: Mapping[str, ParamSpec], key: Array) -> dict[str, Array]:
    """Draw normal float32 values of parameters."""
    keys = jax.random.split(key, len(specs))
    return {
        name: spec.mean + spec.scale * jax.random.normal(k, spec.shape)
        for k, (name, spec) in zip(keys, specs.items(), strict=True)
    }
