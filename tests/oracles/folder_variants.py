"""Variants of the tiny golden folders, as other programs write them.

The generator of golden data and the tests both make them, so this imports neither JAX nor PyTorch.
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

TINY = pathlib.Path(__file__).resolve().parents[1] / "golden" / "tiny"
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
Tensors = dict[str, np.ndarray]
# The option of a config that is to be absent.
ABSENT = object()


def copied(base: str, out: pathlib.Path, tensors: Tensors | None = None, **changes: Any) -> None:
    """Copy a tiny folder with other tensors and changed fields of its config.json."""
    out.mkdir(parents=True)
    fields = json.loads((TINY / base / "config.json").read_text()) | changes
    fields = {name: value for name, value in fields.items() if value is not ABSENT}
    (out / "config.json").write_text(json.dumps(fields))
    if tensors is None:
        shutil.copy(TINY / base / "model.safetensors", out)
    else:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def weights(base: str) -> Tensors:
    return load_file(TINY / base / "model.safetensors")


def tied_but_different(out: pathlib.Path) -> None:
    copied("llama_plain", out, tie_word_embeddings=True)


def tied_and_equal(out: pathlib.Path) -> None:
    tensors = weights("qwen3_plain")
    copied("qwen3_plain", out, tensors | {OUTPUT: tensors[EMBEDDING]})


def tied_with_the_output_alone(out: pathlib.Path) -> None:
    tensors = weights("qwen3_plain")
    tensors[OUTPUT] = tensors.pop(EMBEDDING)
    copied("qwen3_plain", out, tensors)


def without_prefix(out: pathlib.Path) -> None:
    tensors = weights("qwen2_yarn")
    copied("qwen2_yarn", out, {name.removeprefix("model."): x for name, x in tensors.items()})


def inner_model(out: pathlib.Path) -> None:
    tensors = {n.removeprefix("model."): x for n, x in weights("qwen3_plain").items()}
    copied("qwen3_plain", out, tensors, architectures=["Qwen3Model"])


def with_defaults(out: pathlib.Path) -> None:
    """Leave out each field whose default suits the weights; keys have as many heads as queries."""
    tensors = weights("llama_plain")
    for name, x in tensors.items():
        if "k_proj" in name or "v_proj" in name:
            tensors[name] = np.concatenate([x, -x])
    absent = (
        "num_key_value_heads",
        "rope_parameters",
        "rms_norm_eps",
        "head_dim",
        "tie_word_embeddings",
        "hidden_act",
        "attention_bias",
        "mlp_bias",
        "architectures",
        "max_position_embeddings",
    )
    copied("llama_plain", out, tensors, **dict.fromkeys(absent, ABSENT))


def with_buffers(out: pathlib.Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    copied("llama_plain", out, weights("llama_plain") | {name: np.full(4, 7, np.float32)})


def beside_an_index(out: pathlib.Path) -> None:
    """Put an index of other weights beside the single file."""
    copied("llama_plain", out)
    shard = "model-00001-of-00001.safetensors"
    tensors = {name: 2 * x for name, x in weights("llama_plain").items()}
    save_file(tensors, out / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))


def in_half_precision(out: pathlib.Path) -> None:
    tensors = {name: x.astype(np.float16) for name, x in weights("qwen2_plain").items()}
    copied("qwen2_plain", out, tensors)


VARIANTS: dict[str, Callable[[pathlib.Path], None]] = {
    function.__name__: function
    for function in (
        tied_but_different,
        tied_and_equal,
        tied_with_the_output_alone,
        without_prefix,
        inner_model,
        with_defaults,
        with_buffers,
        beside_an_index,
        in_half_precision,
    )
}
