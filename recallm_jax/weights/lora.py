"""Adapters of a model (LoRA): giving them to a model, and merging them into its weights."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from recallm_jax.models.parameters import ADDED_ROWS, adapter_specs, draw
from recallm_jax.models.presets import Lora
from recallm_jax.models.transformer import Transformer
from recallm_jax.weights.tensors import layer_arrays, top_arrays


def with_lora(
    model: Transformer, lora: Lora, *, seed: int = 0, values: Mapping[str, Array] | None = None
) -> Transformer:
    """Return a model whose own parameters are frozen, with float32 adapters.

    Args:
      seed: the seed of new adapters. They leave what the model computes unchanged.
      values: the adapters by name, with the shapes of `adapter_specs`; None makes new ones.
    """
    config = dataclasses.replace(model.config, lora=lora)
    specs = adapter_specs(config)
    if values is None:
        values = draw(specs, jax.random.key(seed))
    top, layers = dict(top_arrays(model)), dict(layer_arrays(model))
    for name in specs:
        (top if name in ADDED_ROWS else layers)[name] = values[name]
    return Transformer(config, top, layers, model.placement)


def merged(model: Transformer, dtype: str = "") -> Transformer:
    """Return the model without adapters that computes the same: W + (alpha / rank) A B.

    Args:
      dtype: the type of the returned parameters, to which float32 sums are rounded once; "" keeps
        the type of each.
    """
    lora, adapters = model.config.lora, adapter_specs(model.config)
    top, layers = top_arrays(model), layer_arrays(model)

    def whole(arrays: Mapping[str, Array]) -> dict[str, Array]:
        kept = {name: x for name, x in arrays.items() if name not in adapters}
        return {name: x.astype(dtype or x.dtype) for name, x in kept.items()}

    new_top, new_layers = whole(top), whole(layers)
    if lora is not None:
        for name in lora.matrices:
            a, b = layers[f"{name}_a"], layers[f"{name}_b"]
            product = jnp.einsum("lir,lro->lio", a, b, preferred_element_type=jnp.float32)
            changed = layers[name] + lora.scale * product
            new_layers[name] = changed.astype(new_layers[name].dtype)
        rows = jnp.array(lora.rows)
        for name, matrix in zip(ADDED_ROWS, ("embedding", "output"), strict=True):
            if name in top:
                changed = (top[matrix][rows] + top[name]).astype(new_top[matrix].dtype)
                new_top[matrix] = new_top[matrix].at[rows].set(changed)
    config = dataclasses.replace(model.config, lora=None)
    return Transformer(config, new_top, new_layers, model.placement)
