"""The sizes of the model that a config names, whether or not its weights are here."""

import dataclasses

from ml_collections import ConfigDict

from recallm_jax.models.presets import PRESETS, ROPE_SCALINGS, ModelConfig
from recallm_jax.policy.setup import lora_of, with_options
from recallm_jax.policy.tiny import RANDOM, tiny_sizes
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.added_tokens import padded_rows, tokenizer_size
from recallm_jax.weights.hugging_face_config import read_config
from recallm_jax.weights.settings import json_object
from recallm_jax.weights.source import load_policy, rescaled_sizes
from storage.files import Path, as_path, read_text
from tasks.prompts.tokenizer_json import read_tokenizer
from tasks.prompts.vocabulary import ADDED_TOKENS

# The number of ids in the published tokenizer of each family of presets, by the names' beginning.
TOKENIZER_SIZES = {
    "smollm2": 49_152,
    "qwen2.5": 151_665,
    "qwen3": 151_669,
    "llama-3": 128_256,
}


def model_sizes(config: ConfigDict) -> ModelConfig:
    """Return the sizes of the policy that a job would load, with added tokens and adapters.

    They come from the weights if these are here, and else from the preset. A Hugging Face folder
    with config.json and tokenizer.json is enough.

    Raises:
      UserError: the weights are missing, and the config names no preset.
    """
    # The ids of the added tokens are constants in the programs, and don't change their sizes.
    lora = lora_of(config, range(len(ADDED_TOKENS)))
    return dataclasses.replace(_frozen_sizes(config), lora=lora)


def _frozen_sizes(config: ConfigDict) -> ModelConfig:
    weights = config.model.weights
    if weights == RANDOM:
        return with_options(tiny_sizes(config), config)
    path = as_path(weights)
    if (path / "config.json").is_file():
        sizes = _of_folder(path, config)
    elif path.is_file():
        sizes = load_policy(path, dtype=config.model.dtype, remat=config.model.remat).model.config
    elif config.model.preset:
        return preset_sizes(config)
    else:
        raise UserError(
            f"config.model.weights = {weights!r} does not exist and config.model.preset is empty; "
            f"give a folder with a config.json, or a preset: {', '.join(sorted(PRESETS))}"
        )
    return _with_options(sizes, config)


def preset_sizes(config: ConfigDict) -> ModelConfig:
    """Return the sizes of the preset that a config names, the four added tokens included."""
    preset = config.model.preset
    sizes = dataclasses.replace(PRESETS[preset], dtype=config.model.dtype, remat=config.model.remat)
    (entries,) = (n for name, n in TOKENIZER_SIZES.items() if preset.startswith(name))
    return _with_options(_with_rows(sizes, entries + len(ADDED_TOKENS)), config)


def _with_options(sizes: ModelConfig, config: ConfigDict) -> ModelConfig:
    scaling = ROPE_SCALINGS.get(config.model.rope_scaling)
    return with_options(sizes if scaling is None else rescaled_sizes(sizes, scaling), config)


def _of_folder(folder: Path, config: ConfigDict) -> ModelConfig:
    path = folder / "config.json"
    fields = json_object(path.read_bytes(), str(path))
    options = {"dtype": config.model.dtype, "remat": config.model.remat}
    sizes = read_config(fields, str(path), **options)
    tokenizer_path = folder / "tokenizer.json"
    entries = sizes.vocab_rows
    if tokenizer_path.is_file():
        tokenizer = read_tokenizer(read_text(tokenizer_path))
        entries = tokenizer_size(tokenizer)
        entries += sum(tokenizer.token_to_id(token) is None for token in ADDED_TOKENS)
    return _with_rows(sizes, entries)


def _with_rows(sizes: ModelConfig, entries: int) -> ModelConfig:
    """Return the sizes with a row for each entry of the tokenizer, padded as in loading."""
    return dataclasses.replace(sizes, vocab_rows=padded_rows(max(sizes.vocab_rows, entries)))
