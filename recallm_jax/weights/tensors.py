"""Converting checkpoint tensors with Hugging Face names to a Transformer, and back.

Checkpoints store matrices [out, in] and one tensor a layer. A Transformer has matrices [in, out],
and stacks the layers.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from recallm_jax.models.finite import LARGEST, usable
from recallm_jax.models.parameters import layer_specs, top_specs
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError

TOP_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "output": "lm_head.weight",
}
# Name inside `model.layers.<number>.`, and whether the checkpoint holds the transpose of ours.
LAYER_NAMES = {
    "attention_norm": ("input_layernorm.weight", False),
    "query": ("self_attn.q_proj.weight", True),
    "key": ("self_attn.k_proj.weight", True),
    "value": ("self_attn.v_proj.weight", True),
    "query_bias": ("self_attn.q_proj.bias", False),
    "key_bias": ("self_attn.k_proj.bias", False),
    "value_bias": ("self_attn.v_proj.bias", False),
    "query_norm": ("self_attn.q_norm.weight", False),
    "key_norm": ("self_attn.k_norm.weight", False),
    "attention_output": ("self_attn.o_proj.weight", True),
    "mlp_norm": ("post_attention_layernorm.weight", False),
    "gate": ("mlp.gate_proj.weight", True),
    "up": ("mlp.up_proj.weight", True),
    "down": ("mlp.down_proj.weight", True),
}


def layer_name(number: int, name: str) -> str:
    return f"model.layers.{number}.{name}"


def stored_names(config: ModelConfig) -> list[str]:
    """Return the names of the tensors that a checkpoint of these sizes has."""
    return [TOP_NAMES[name] for name in top_specs(config)] + [
        layer_name(number, LAYER_NAMES[name][0])
        for number in range(config.num_layers)
        for name in layer_specs(config)
    ]


def check_names(config: ModelConfig, held: Collection[str], origin: str) -> None:
    """Refuse a checkpoint that lacks a tensor of the model, or holds one that it does not use.

    Args:
      held: the names of the checkpoint's tensors, without harmless ones.
      origin: the file or folder to name in errors.

    Raises:
      UserError: names the tensors.
    """
    needed = stored_names(config)
    missing = [name for name in needed if name not in held]
    if missing == [TOP_NAMES["output"]]:
        raise UserError(
            f"{origin} has no output matrix: there is no tensor {TOP_NAMES['output']!r}, and "
            "tie_word_embeddings = true does not put the embedding in its place; take a "
            "checkpoint of the whole model"
        )
    if missing:
        raise UserError(
            f"{origin} has no tensor {_listed(missing)}, which a {config.family} of "
            f"{config.num_layers} layers has: weights and configuration do not belong together, or "
            "a file is missing"
        )
    unknown = sorted(set(held) - set(needed))
    if unknown:
        raise UserError(
            f"{origin} holds tensor {_listed(unknown)}, which the decoder of {config.family} does "
            "not use, so the model would compute something else; take a checkpoint without it"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def assemble(
    config: ModelConfig, read: Callable[[str], np.ndarray], param_dtype: str, origin: str
) -> Transformer:
    """Build the model from a reader of checkpoint tensors.

    Args:
      read: returns the checkpoint's tensor of a name in `stored_names`.
      param_dtype: the data type of stored parameters.
      origin: the file or folder to name in errors.

    Raises:
      UserError: the shape of a tensor does not fit the sizes, or it holds NaN, infinity, or a value
        too large to compute with.
    """
    dtype = jnp.dtype(param_dtype)

    def checked(name: str, shape: tuple[int, ...]) -> np.ndarray:
        tensor = read(name)
        if tensor.shape != shape:
            raise UserError(
                f"{origin}: tensor {name!r} has shape {list(tensor.shape)}, but the "
                f"configuration asks for {list(shape)}: weights and configuration do not belong "
                "together"
            )
        if not usable(tensor):
            raise UserError(
                f"{origin}: tensor {name!r} holds NaN, infinity, or a value above {LARGEST:.1e}, "
                "with which nothing can be computed; take a checkpoint from before its training "
                "went wrong"
            )
        return tensor

    top = {
        name: jnp.asarray(checked(TOP_NAMES[name], spec.shape), dtype)
        for name, spec in top_specs(config).items()
    }
    layers = {}
    for name, spec in layer_specs(config).items():
        stored_name, transposed = LAYER_NAMES[name]
        stored_shape = spec.shape[:0:-1] if transposed else spec.shape[1:]
        stacked = np.empty(spec.shape, dtype)
        for number in range(config.num_layers):
            tensor = checked(layer_name(number, stored_name), stored_shape)
            stacked[number] = tensor.T if transposed else tensor
        layers[name] = jnp.asarray(stacked)
    return Transformer(config, top, layers)


def disassemble(model: Transformer, vocab_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the checkpoint tensors of a model one by one, in the order of its layers.

    Rows of the vocabulary from `vocab_size` on are left out. They pad for sharding, and the decoder
    masks them; elsewhere they would take part in the softmax.
    """
    top, layers = top_arrays(model), layer_arrays(model)
    for name, value in top.items():
        rows = slice(vocab_size if name in ("embedding", "output") else None)
        yield TOP_NAMES[name], np.asarray(value[rows])
    for number in range(model.config.num_layers):
        for name, value in layers.items():
            stored_name, transposed = LAYER_NAMES[name]
            tensor = np.asarray(value[number])
            yield (
                layer_name(number, stored_name),
                np.ascontiguousarray(tensor.T if transposed else tensor),
            )


def top_arrays(model: Transformer) -> dict:
    return {name: getattr(model, name)[...] for name in top_specs(model.config)}


def layer_arrays(model: Transformer) -> dict:
    return {name: getattr(model.layers, name)[...] for name in layer_specs(model.config)}
