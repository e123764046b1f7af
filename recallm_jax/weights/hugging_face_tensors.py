"""The tensors of a Hugging Face folder: the files that hold them, and what each name stands for."""

import dataclasses
import pathlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from recallm_jax.models.presets import ModelConfig
from recallm_jax.runtime.console import warn
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import quantized
from recallm_jax.weights.settings import json_object
from recallm_jax.weights.tensors import TOP_NAMES

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PREFIX = "model."
# Buffers of older versions of transformers; the frequencies follow from the configuration.
_BUFFERS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
_TYPES = {"F16", "BF16", "F32", "F64"}


@dataclasses.dataclass(frozen=True)
class FolderTensors:
    """Tensors in opened safetensors files, by the names that a whole causal model gives them.

    Attributes:
      places: the opened file of each name, and the name that the file has for it.
      origin: the folder, for errors.
    """

    places: Mapping[str, tuple[Any, str]]
    origin: str

    def read(self, name: str) -> np.ndarray:
        """Return a tensor.

        Raises:
          UserError: its values are not floats of 16, 32 or 64 bits.
        """
        file, stored = self.places[name]
        kind = file.get_slice(stored).get_dtype()
        if kind not in _TYPES:
            raise UserError(
                f"{self.origin}: tensor {stored!r} has values of type {kind}, which are not read; "
                f"take a checkpoint in one of {', '.join(sorted(_TYPES))}"
            )
        return file.get_tensor(stored)


def open_tensors(folder: pathlib.Path, stack: ExitStack) -> FolderTensors:
    """Open the safetensors files of a folder, which `stack` closes.

    A single file has priority over an index, as in transformers.

    Raises:
      UserError: a file is missing or truncated, or the weights are quantized.
    """
    files = {}
    for name in _file_names(folder):
        path = folder / name
        if not path.exists():
            raise UserError(f"{path} is missing; {INDEX_FILE} names it: fetch it again")
        try:
            opened = stack.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is truncated or not a safetensors file ({error}): fetch it again"
            ) from None
        files.update(dict.fromkeys(opened.keys(), opened))
    quantized.check_tensors(files, folder)
    # The files of the inner model alone have names without its prefix.
    inner = not any(name.startswith(_PREFIX) for name in files)
    places: dict[str, tuple[Any, str]] = {}
    for stored in sorted(name for name in files if not name.endswith(_BUFFERS)):
        whole = _PREFIX + stored if inner and stored != TOP_NAMES["output"] else stored
        places[whole] = (files[stored], stored)
    return FolderTensors(places, str(folder))


def _file_names(folder: pathlib.Path) -> list[str]:
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists():
        if index.exists():
            warn(f"{folder}: {SINGLE_FILE} is read, and {INDEX_FILE} is not, as in transformers")
        return [SINGLE_FILE]
    if not index.exists():
        raise UserError(
            f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors checkpoints "
            "are read: save other ones with transformers' save_pretrained"
        )
    content = read_json(index)
    if not isinstance(content.get("weight_map"), dict):
        raise UserError(f"{index} has no field 'weight_map': fetch the checkpoint again")
    names = content["weight_map"].values()
    if not all(isinstance(name, str) and pathlib.PurePath(name).name == name for name in names):
        raise UserError(
            f"{index} names files outside its folder; take a checkpoint whose index names its own"
        )
    return sorted(set(names))


def with_ties(config: ModelConfig, tensors: FolderTensors) -> tuple[ModelConfig, FolderTensors]:
    """Return the sizes and tensors after the rule of transformers for tied embeddings.

    If the configuration ties them and the files hold both matrices, they are tied only if they are
    equal. If the files hold the output matrix alone, it is the embedding too.
    """
    embedding, output = TOP_NAMES["embedding"], TOP_NAMES["output"]
    if not config.tie_embeddings or output not in tensors.places:
        return config, tensors
    places = dict(tensors.places)
    if embedding not in places:
        places[embedding] = places[output]
    elif not np.array_equal(tensors.read(embedding), tensors.read(output)):
        warn(
            f"{tensors.origin}: {output} differs from the embedding, so it is kept apart, although "
            "tie_word_embeddings is true"
        )
        return dataclasses.replace(config, tie_embeddings=False), tensors
    del places[output]
    return config, dataclasses.replace(tensors, places=places)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
      UserError: it is missing, or not a JSON object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; fetch the checkpoint again") from None
    return json_object(content, str(path))
