"""Reading and writing Hugging Face folders: config.json, safetensors, sharded or not, tokenizer."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import quantized, recall_rules
from recallm_jax.weights.config_keys import check_generation_config
from recallm_jax.weights.folder import write_folder
from recallm_jax.weights.hugging_face_config import read_config, write_config
from recallm_jax.weights.hugging_face_tensors import (
    INDEX_FILE,
    SINGLE_FILE,
    open_tensors,
    read_json,
    with_ties,
)
from recallm_jax.weights.special_ids import StatedIds, exported_ids, read_stated
from recallm_jax.weights.tensors import assemble, check_names, disassemble
from recallm_jax.weights.tokenizer_settings import read_special_tokens, read_template
from tasks.prompts.vocabulary import Tokenizer

# Other forms of a tokenizer, from which transformers makes a tokenizer.json.
_OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json")


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a checkpoint, with its chat template and special tokens.

    Attributes:
      tokenizer_json: the text of tokenizer.json.
      chat_template: the Jinja template of a chat.
      eos_token: the token that ends a turn, for the template.
      bos_token: the token that begins a prompt, for the template; "" without one.
      special_tokens: further tokens for the template by their names, such as "pad_token".
      stated: what config.json and generation_config.json state about such tokens.
    """

    tokenizer_json: str
    chat_template: str
    eos_token: str
    bos_token: str = ""
    special_tokens: dict[str, str] = dataclasses.field(default_factory=dict)
    stated: StatedIds = dataclasses.field(default_factory=StatedIds)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer.

        Raises:
          TaskInputError: the files are broken, or do not belong together.
        """
        return Tokenizer(
            self.tokenizer_json,
            chat_template=self.chat_template,
            eos_token=self.eos_token,
            bos_token=self.bos_token,
            end_ids=self.stated.end_ids,
            special_tokens=self.special_tokens,
        )


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
    config = read_sizes(folder, dtype=dtype, remat=remat)
    with ExitStack() as stack:
        config, tensors = with_ties(config, open_tensors(folder, stack))
        check_names(config, tensors.places, str(folder))
        return assemble(config, tensors.read, param_dtype, str(folder))


def read_sizes(
    folder: str | os.PathLike[str], *, dtype: str = "float32", remat: str = "full"
) -> ModelConfig:
    """Return the sizes of a folder's model, and refuse a folder that holds no supported one.

    Raises:
      UserError: config.json or generation_config.json is missing, damaged, or of a model that is
        not supported; the weights are quantized, or those of an adapter.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a Hugging Face checkpoint folder")
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), not a model; name it as "
            "config.model.adapter beside the weights it was trained on, or merge it into them with "
            "PEFT's merge_and_unload"
        )
    config_path, generation_path = folder / "config.json", folder / "generation_config.json"
    quantized.check_folder(folder)
    config = read_config(read_json(config_path), str(config_path), dtype=dtype, remat=remat)
    if generation_path.exists():
        check_generation_config(read_json(generation_path), str(generation_path))
    return config


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
        others = [name for name in _OTHER_TOKENIZERS if (folder / name).exists()]
        remedy = (
            f"load the folder with transformers' AutoTokenizer, which reads {others[0]}, and save "
            "it again"
            if others
            else "fetch the checkpoint's tokenizer files too"
        )
        raise UserError(f"{tokenizer_path} is missing; {remedy}")
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path)
    legacy_path = folder / "special_tokens_map.json"
    if legacy_path.exists() and "added_tokens_decoder" not in settings:
        # In folders of old versions of transformers this file has priority.
        settings |= read_json(legacy_path)
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
            f"{settings_path.name}; use an instruction-tuned checkpoint, or add the "
            f"{template_path.name} of one with the same tokenizer"
        )
    eos, bos = (_special_token(settings, name) for name in ("eos_token", "bos_token"))
    if not eos:
        raise UserError(f"{settings_path} names no eos_token; add the token that ends a turn")
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.exists() else None
    stated = read_stated(read_json(folder / "config.json"), generation, str(folder))
    return TokenizerFiles(tokenizer_json, template, eos, bos, special, stated)


def _special_token(settings: dict, name: str) -> str:
    """Return a token that tokenizer_config.json names, as text or object; "" if there is none."""
    token = settings.get(name)
    return (token.get("content") if isinstance(token, dict) else token) or ""


def save(
    model: Transformer,
    folder: str | os.PathLike[str],
    files: TokenizerFiles,
    *,
    recall_spans: dict[str, Any] | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write a folder that transformers and vLLM load, whole or not at all.

    It behaves like the policy: it has a row for each entry of the tokenizer and no more, and ends
    responses at the same tokens. The chat template is written as it is (`served_template.py`).

    Args:
      folder: a folder that does not exist or is empty.
      recall_spans: the rules of recall spans (`recall_rules`), for config.json.
      max_shard_bytes: the most bytes of a safetensors file, unless a single tensor has more.

    Raises:
      UserError: the folder has contents, the disk is full or not writable, or tokenizer and model
        do not belong together.
      TaskInputError: the tokenizer's files are broken.
    """
    tokenizer = files.tokenizer()
    settings = _settings(model, files, tokenizer)
    if recall_spans is not None:
        settings["config.json"][recall_rules.KEY] = recall_spans

    def write(partial: pathlib.Path) -> None:
        _write_weights(model, tokenizer.size, partial, max_shard_bytes)
        for name, content in settings.items():
            _write_json(partial / name, content)
        write_tokenizer(partial, files, max_length=model.config.max_positions)

    # A folder without config.json is refused.
    write_folder(folder, write, last="config.json")


def _settings(model: Transformer, files: TokenizerFiles, tokenizer: Tokenizer) -> dict[str, dict]:
    """Return the contents of the folder's JSON files but the tokenizer and the index."""
    if tokenizer.size > model.config.vocab_rows:
        raise UserError(
            f"the tokenizer has {tokenizer.size} entries, but the embedding "
            f"{model.config.vocab_rows} rows; take both from the same model"
        )
    ids, generation = exported_ids(
        files.stated, tokenizer, pad_token=_pad_token(files, _added_tokens(tokenizer))
    )
    sizes = dataclasses.replace(model.config, vocab_rows=tokenizer.size)
    return {
        "config.json": write_config(sizes, param_dtype=str(model.embedding[...].dtype)) | ids,
        "generation_config.json": generation,
    }


def write_tokenizer(folder: pathlib.Path, files: TokenizerFiles, *, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, with the added tokens in both."""
    tokenizer = files.tokenizer()
    added = _added_tokens(tokenizer)
    named = {
        **files.special_tokens,
        "eos_token": files.eos_token,
        "bos_token": files.bos_token,
        "pad_token": _pad_token(files, added),
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: token for name, token in named.items() if token},
        "added_tokens_decoder": {str(token.pop("id")): token for token in added},
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": files.chat_template,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")


def _added_tokens(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return json.loads(tokenizer.to_json())["added_tokens"]


def _pad_token(files: TokenizerFiles, added: list[dict[str, Any]]) -> str:
    """Return the token that pads batches: the source's; without one, the eos token, as is usual."""
    stated = {token["id"]: token["content"] for token in added}.get(files.stated.pad_id)
    return files.special_tokens.get("pad_token") or stated or files.eos_token


def _write_weights(
    model: Transformer, vocab_size: int, folder: pathlib.Path, max_shard_bytes: int
) -> None:
    shards = _shards(disassemble(model, vocab_size), max_shard_bytes)
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
