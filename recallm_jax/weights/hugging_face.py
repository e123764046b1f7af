"""Reading and writing Hugging Face folders: config.json, safetensors, sharded or not, tokenizer."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.config_keys import check_generation_config
from recallm_jax.weights.hugging_face_config import read_config, write_config
from recallm_jax.weights.hugging_face_tensors import (
    INDEX_FILE,
    SINGLE_FILE,
    open_tensors,
    read_json,
    with_ties,
)
from recallm_jax.weights.tensors import assemble, check_names, disassemble
from recallm_jax.weights.tokenizer_settings import read_special_tokens, read_template
from storage.files import Path, as_path, is_remote, store


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a checkpoint, with its chat template and special tokens.

    Attributes:
      tokenizer_json: the text of tokenizer.json.
      chat_template: the Jinja template of a chat.
      eos_token: the token that ends a turn.
      bos_token: the token that begins a prompt, for the template; "" without one.
      special_tokens: further tokens for the template by their names, such as "pad_token".
    """

    tokenizer_json: str
    chat_template: str
    eos_token: str
    bos_token: str
    special_tokens: dict[str, str] = dataclasses.field(default_factory=dict)


def load(
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: str = "full",
) -> Transformer:
    """Load the model of a Hugging Face folder.

    Args:
      dtype: the type of activations and matrix products.
      param_dtype: the type of stored parameters.
      remat: see `ModelConfig`.

    Raises:
      UserError: the folder lacks a file, a file is truncated, the sizes do not agree, a key or a
        tensor is not known, or the weights are quantized or hold NaN or infinity.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a Hugging Face checkpoint folder")
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which is not read; save the whole "
            "model with PEFT's merge_and_unload"
        )
    config_path, generation_path = folder / "config.json", folder / "generation_config.json"
    config = read_config(read_json(config_path), str(config_path), dtype=dtype, remat=remat)
    if generation_path.exists():
        check_generation_config(read_json(generation_path), str(generation_path))
    with ExitStack() as stack:
        config, tensors = with_ties(config, open_tensors(folder, stack))
        check_names(config, tensors.places, str(folder))
        return assemble(config, tensors.read, param_dtype, str(folder))


def load_tokenizer(folder: str | os.PathLike[str]) -> TokenizerFiles:
    """Read tokenizer.json, the chat template and the special tokens of a folder.

    The template is chat_template.jinja if there is one, else the one of tokenizer_config.json.

    Raises:
      UserError: a file, the template or the end-of-turn token is missing or not a text, or a file
        has a setting that is not read (`tokenizer_settings`).
    """
    folder = pathlib.Path(folder)
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.exists():
        raise UserError(f"{tokenizer_path} is missing; fetch the checkpoint's tokenizer files too")
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path)
    tokenizer_json = _read_text(tokenizer_path)
    special = read_special_tokens(settings, tokenizer_json, str(folder))
    template_path = folder / "chat_template.jinja"
    template = (
        _read_text(template_path)
        if template_path.exists()
        else read_template(settings, str(folder))
    )
    if not template:
        raise UserError(
            f"{folder} has no chat template, neither {template_path.name} nor in "
            f"{settings_path.name}; use an instruction-tuned checkpoint"
        )
    eos, bos = (_special_token(settings, name) for name in ("eos_token", "bos_token"))
    if not eos:
        raise UserError(f"{settings_path} names no eos_token; add the token that ends a turn")
    return TokenizerFiles(tokenizer_json, template, eos, bos, special)


def _special_token(settings: dict, name: str) -> str:
    """Return a token that tokenizer_config.json names, as text or object; "" if there is none."""
    token = settings.get(name)
    return (token.get("content") if isinstance(token, dict) else token) or ""


def save(
    model: Transformer,
    folder: str | os.PathLike[str],
    tokenizer: TokenizerFiles,
    *,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write a folder that transformers and vLLM load, whole or not at all.

    Args:
      folder: a folder that does not exist or is empty.
      max_shard_bytes: the most bytes of a safetensors file, unless a single tensor has more.

    Raises:
      UserError: the folder has contents, or the disk is full or not writable.
    """
    target = as_path(os.fspath(folder))
    if is_remote(target):
        _save_remote(model, target, tokenizer, max_shard_bytes)
        return
    folder = pathlib.Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; give a new folder or remove it first")
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        _write_weights(model, partial, max_shard_bytes)
        _write_settings(model, partial, tokenizer)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save_remote(
    model: Transformer, folder: Path, tokenizer: TokenizerFiles, max_shard_bytes: int
) -> None:
    """Write a folder locally, then copy it to gs://, its config.json last to make it complete.

    Raises:
      UserError: see `save`.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; give a new folder or remove it first")
    with tempfile.TemporaryDirectory() as temporary:
        local = pathlib.Path(temporary) / folder.name
        save(model, local, tokenizer, max_shard_bytes=max_shard_bytes)
        files = sorted(local.iterdir(), key=lambda file: file.name == "config.json")
        for file in files:
            store(folder).put_file(str(file), str(folder / file.name))


def _write_settings(model: Transformer, folder: pathlib.Path, tokenizer: TokenizerFiles) -> None:
    vocabulary = _ids(tokenizer.tokenizer_json)
    if tokenizer.eos_token not in vocabulary:
        raise UserError(
            f"the tokenizer has no token {tokenizer.eos_token!r}, which should end a turn"
        )
    config = write_config(
        model.config,
        param_dtype=str(model.embedding[...].dtype),
        eos_id=vocabulary[tokenizer.eos_token],
    )
    _write_json(folder / "config.json", config)
    write_tokenizer(folder, tokenizer, max_length=model.config.max_positions)


def write_tokenizer(folder: pathlib.Path, tokenizer: TokenizerFiles, *, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.eos_token,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": tokenizer.chat_template,
    }
    if tokenizer.bos_token:
        settings["bos_token"] = tokenizer.bos_token
    settings |= tokenizer.special_tokens
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer_json, encoding="utf-8")


def _ids(tokenizer_json: str) -> dict[str, int]:
    content = json.loads(tokenizer_json)
    ids = dict(content["model"]["vocab"])
    ids.update({token["content"]: token["id"] for token in content["added_tokens"]})
    return ids


def _write_weights(model: Transformer, folder: pathlib.Path, max_shard_bytes: int) -> None:
    shards = _shards(disassemble(model), max_shard_bytes)
    # Every name contains the number of shards, so names are given last.
    weight_map, total, count = {}, 0, 0
    for number, shard in enumerate(shards):
        path = folder / f"{number}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        # safetensors makes files for their owner only; the other files of the folder are readable.
        path.chmod(0o644)
        weight_map.update(dict.fromkeys(shard, number))
        total += sum(tensor.nbytes for tensor in shard.values())
        count = number + 1
    if count == 1:
        (folder / "0.safetensors").rename(folder / SINGLE_FILE)
        return

    def final_name(number: int) -> str:
        return f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    for number in range(count):
        (folder / f"{number}.safetensors").rename(folder / final_name(number))
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: final_name(number) for name, number in weight_map.items()},
    }
    _write_json(folder / INDEX_FILE, index)


def _shards(
    tensors: Iterator[tuple[str, np.ndarray]], max_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); fetch it again") from None


def _write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
