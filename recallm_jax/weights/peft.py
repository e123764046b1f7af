"""Adapters as PEFT folders: adapter_config.json and adapter_model.safetensors, and back.

PEFT keeps the trained rows of an embedding whole; here they are the frozen rows plus differences.
Its layout is that of peft 0.21: A as [rank, in], B as [out, rank].
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recallm_jax.models.parameters import ADDED_ROWS, adapter_specs
from recallm_jax.models.presets import MATRICES, Lora, ModelConfig
from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.fetch import fetch
from recallm_jax.weights.folder import write_folder
from recallm_jax.weights.hugging_face import TokenizerFiles, write_tokenizer
from recallm_jax.weights.lora import with_lora
from recallm_jax.weights.tensors import LAYER_NAMES, layer_name, top_arrays
from storage.files import as_path

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# The module of each matrix with trained rows, and our name of the matrix.
_ROWS = {
    "embedding_rows": ("model.embed_tokens", "embedding"),
    "output_rows": ("lm_head", "output"),
}
# Settings of PEFT that change what an adapter computes, with the values that leave it as here.
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "use_rslora": False,
    "lora_bias": False,
    "modules_to_save": None,
    "layers_to_transform": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "target_parameters": None,
}
# The same, of settings that an adapter which convert wrote does not have.
_PLAIN_IF_GIVEN: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "exclude_modules": None,
    "kasa_config": None,
    "monteclora_config": None,
    "use_bdlora": None,
    "use_qalora": False,
    "velora_config": None,
}
# Initial values of A and B for which PEFT leaves the frozen weights as they are. With others, such
# as "pissa", the adapter belongs to changed weights.
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")
_MERGE = "merge the adapter into its weights with peft (merge_and_unload), and load the result"


def save(
    model: Transformer,
    folder: str | os.PathLike[str],
    tokenizer: TokenizerFiles,
    *,
    base: str = "",
    param_dtype: str = "float32",
) -> None:
    """Write a model's adapters and its tokenizer as a PEFT folder, whole or not at all.

    Args:
      base: the name of the frozen weights, for PEFT's `base_model_name_or_path`.
      param_dtype: the type of the file's numbers, "float32" or "bfloat16"; PEFT reads both.

    Raises:
      UserError: the model has no adapters, the folder has contents, or it can't be written.
    """
    lora = model.config.lora
    if lora is None:
        raise UserError(
            "this run trains all weights and has no adapter; convert it without --adapter"
        )
    settings = _PLAIN | {
        "base_model_name_or_path": base or None,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": [_module(name) for name in lora.matrices],
        "trainable_token_indices": {
            _ROWS[name][0].removeprefix("model."): list(lora.rows)
            for name in ADDED_ROWS
            if name in adapter_specs(model.config)
        },
    }

    def write(partial: pathlib.Path) -> None:
        tensors = {name: x.astype(jnp.dtype(param_dtype)) for name, x in _to_peft(model).items()}
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        (partial / WEIGHTS).chmod(0o644)
        (partial / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
        write_tokenizer(partial, tokenizer, max_length=model.config.max_positions)

    write_folder(folder, write, last=CONFIG)


def load(folder: str | os.PathLike[str], model: Transformer, rows: tuple[int, ...]) -> Transformer:
    """Return a model with the adapters of a PEFT folder.

    Args:
      model: the frozen weights that they belong to, without adapters.
      rows: the ids of the added tokens, whose rows the folder must hold.

    Raises:
      UserError: the folder lacks a file, one is damaged, it holds another kind of adapter, or it
        does not fit the model.
    """
    folder = fetch(as_path(os.fspath(folder)))
    settings = _read_settings(folder / CONFIG)
    lora = _lora_of(settings, str(folder / CONFIG), rows)
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; fetch the adapter again") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}); fetch it again") from None
    return with_lora(model, lora, values=_from_peft(tensors, model, lora, str(path)))


def _read_settings(path: pathlib.Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give a PEFT folder, such as convert writes") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no object; give a PEFT folder, such as convert writes")
    for name, value in (_PLAIN | _PLAIN_IF_GIVEN).items():
        # PEFT writes {} and [] where it means None.
        if settings.get(name) and settings[name] != value:
            raise UserError(
                f"{path}: {name} = {settings[name]!r} is not supported, only {value!r} is; {_MERGE}"
            )
    initial = settings.get("init_lora_weights")
    if initial not in _INITIAL:
        raise UserError(
            f"{path}: init_lora_weights = {initial!r} is not supported, because it changes the "
            f"frozen weights; {_MERGE}"
        )
    return settings


def _lora_of(settings: dict[str, Any], origin: str, rows: tuple[int, ...]) -> Lora:
    names = {_module(name): name for name in MATRICES}
    targets = settings.get("target_modules")
    if not isinstance(targets, list) or not set(targets) <= set(names):
        raise UserError(
            f"{origin}: target_modules = {targets!r} is not a list of some of {sorted(names)}; "
            f"{_MERGE}"
        )
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f"{origin}: r = {rank!r} is not a number of columns; fetch it again")
    if not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise UserError(
            f"{origin}: lora_alpha = {alpha!r} is not a finite number above 0; fetch it again"
        )
    found = settings.get("trainable_token_indices")
    found = found.get("embed_tokens") if isinstance(found, dict) else found
    if not isinstance(found, list) or sorted(map(str, found)) != sorted(map(str, rows)):
        raise UserError(
            f"{origin}: trainable_token_indices = {found}, but the added tokens have the ids "
            f"{list(rows)}; give an adapter that convert wrote for these weights"
        )
    matrices = tuple(name for name in MATRICES if _module(name) in targets)
    return Lora(rank, float(alpha), matrices, tuple(map(int, found)))


def _module(name: str) -> str:
    """Return the checkpoint's name of a matrix, such as q_proj."""
    return LAYER_NAMES[name][0].split(".")[-2]


def _names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return PEFT's name of each adapter, one a layer."""
    assert config.lora is not None
    names = {}
    for name in config.lora.matrices:
        module = LAYER_NAMES[name][0].removesuffix(".weight")
        for part in "ab":
            names[f"{name}_{part}"] = tuple(
                f"{_PREFIX}{layer_name(number, module)}.lora_{part.upper()}.weight"
                for number in range(config.num_layers)
            )
    return names


def _row_name(name: str) -> str:
    return f"{_PREFIX}{_ROWS[name][0]}.token_adapter.trainable_tokens_delta"


def _to_peft(model: Transformer) -> dict[str, np.ndarray]:
    trained, tensors = cast(dict[str, Array], model.trained()), {}
    assert model.config.lora is not None
    for name, stored in _names(model.config).items():
        for number, peft_name in enumerate(stored):
            tensors[peft_name] = np.ascontiguousarray(np.asarray(trained[name][number]).T)
    rows = np.array(model.config.lora.rows)
    for name in ADDED_ROWS:
        if name in trained:
            frozen = np.asarray(top_arrays(model)[_ROWS[name][1]])[rows]
            tensors[_row_name(name)] = frozen.astype(np.float32) + np.asarray(trained[name])
    return tensors


def _from_peft(
    tensors: Mapping[str, np.ndarray], model: Transformer, lora: Lora, origin: str
) -> dict[str, Array]:
    config = dataclasses.replace(model.config, lora=lora)
    specs, left = adapter_specs(config), dict(tensors)

    def taken(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in left:
            raise UserError(f"{origin} has no tensor {name!r}; fetch the adapter again")
        tensor = left.pop(name)
        if tensor.shape != shape:
            raise UserError(
                f"{origin}: tensor {name!r} has shape {list(tensor.shape)}, but "
                f"config.model.weights asks for {list(shape)}; give the weights that the adapter "
                "was trained on"
            )
        return np.asarray(tensor, np.float32)

    values = {}
    for name, stored in _names(config).items():
        shape = specs[name].shape[:0:-1]
        values[name] = jnp.asarray(np.stack([taken(peft_name, shape).T for peft_name in stored]))
    for name in ADDED_ROWS:
        if name in specs:
            whole = taken(_row_name(name), specs[name].shape)
            frozen = np.asarray(top_arrays(model)[_ROWS[name][1]])[np.array(lora.rows)]
            values[name] = jnp.asarray(whole - frozen.astype(np.float32))
    if left:
        raise UserError(f"{origin} holds tensors of no adapter here, such as {min(left)!r}")
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise UserError(f"{origin}: the adapter of {name!r} holds NaN or infinite numbers")
    return values
