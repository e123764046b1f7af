"""The policy and tokenizer that a config names, placed on its mesh."""

import dataclasses
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from recallm_jax.data.settings import prompt_room
from recallm_jax.models.presets import MATRICES, ROPE_SCALINGS, Lora, ModelConfig
from recallm_jax.models.transformer import Transformer, random_transformer
from recallm_jax.policy import partitioning
from recallm_jax.policy.context import Context
from recallm_jax.policy.tiny import RANDOM, tiny_files, tiny_sizes
from recallm_jax.runtime import processes
from recallm_jax.runtime.console import Console
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import peft
from recallm_jax.weights.hugging_face import TokenizerFiles
from recallm_jax.weights.lora import merged, with_lora
from recallm_jax.weights.source import LoadedPolicy, load_policy
from storage.errors import naming
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.registry import suite_tasks


def set_up(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Context:
    """Load the weights that a config names, and place them on its mesh.

    `model.weights` is a path (`weights/source.py`), or "random:tiny": a small random model with a
    tokenizer trained on the tasks' own wordings, for tests and tours.

    Args:
      devices: the devices of the mesh; None takes those of all processes.

    Raises:
      UserError: weights or tokenizer are missing or broken, or the sizes don't fit the mesh.
    """
    model, tokenizer, files = _load(config)
    model = _adapted(config, model, tokenizer)
    model = model.with_config(with_options(model.config, config))
    check_lengths(config, model.config)
    mesh = partitioning.make_mesh(**config.mesh, devices=devices)
    processes.check_mesh(mesh)
    available = jax.device_count() if devices is None else len(devices)
    if mesh.size < available and processes.leads(mesh):
        print(
            f"config.mesh uses {mesh.size} of {available} devices; docs/scaling.md says how to use "
            "all",
            file=sys.stderr,
        )
    partitioning.check_config(model.config, mesh)
    partitioning.check_attention(config.model.attention, mesh)
    placed = partitioning.place_model(model, mesh, attention=config.model.attention)
    return Context(placed, tokenizer, files, mesh, Console(silent=not processes.leads(mesh)))


def set_up_weights(path: str, *, adapter: str = "", dtype: str = "float32") -> Context:
    """Load weights on one device, without a config; see `weights/source.py` for the path.

    Args:
      adapter: a PEFT folder that is added to the weights; "" for none.
      dtype: the type of weights and products.

    Raises:
      UserError: weights, tokenizer or adapter are missing or broken, or don't belong together.
    """
    with jax.default_device(_host()):
        loaded = load_policy(path, dtype=dtype, param_dtype=dtype)
        tokenizer, model = _tokenizer(loaded, path), loaded.model
        if adapter:
            model = merged(peft.load(adapter, model, tokenizer.added_ids))
    mesh = partitioning.make_mesh(devices=jax.local_devices()[:1])
    # On a CPU, arrays of all layers at once would be copied at every token.
    unstack = mesh.devices.flat[0].platform == "cpu"
    model = model.with_config(dataclasses.replace(model.config, unstack_decode=unstack))
    placed = partitioning.place_model(model, mesh)
    return Context(placed, tokenizer, loaded.tokenizer, mesh, Console())


def with_options(sizes: ModelConfig, config: ConfigDict) -> ModelConfig:
    """Return a loaded model's sizes with the options that only the config sets."""
    return dataclasses.replace(
        sizes,
        unstack_decode=config.model.unstack_decode,
        max_positions=sizes.max_positions + config.model.extra_positions,
    )


def load_tokenizer(config: ConfigDict) -> Tokenizer:
    """Return the tokenizer of the weights that a config names."""
    return _load(config)[1]


def _load(config: ConfigDict) -> tuple[Transformer, Tokenizer, TokenizerFiles]:
    if config.model.weights == RANDOM:
        model = random_transformer(tiny_sizes(config), jax.random.key(config.seed))
        files = tiny_files()
        return model, files.tokenizer(), files
    # On the host, since a single device may lack room for all of the weights.
    with jax.default_device(_host()):
        loaded = load_policy(
            config.model.weights,
            dtype=config.model.dtype,
            param_dtype=config.model.param_dtype,
            remat=config.model.remat,
            rope_scaling=ROPE_SCALINGS.get(config.model.rope_scaling),
            seed=config.seed,
        )
    return loaded.model, _tokenizer(loaded, config.model.weights), loaded.tokenizer


def _tokenizer(loaded: LoadedPolicy, origin: str) -> Tokenizer:
    with naming(origin):
        tokenizer = loaded.tokenizer.tokenizer()
    if tokenizer.size > loaded.model.config.vocab_rows:
        raise UserError(
            f"{origin}: the tokenizer has {tokenizer.size} entries, but the embedding "
            f"{loaded.model.config.vocab_rows} rows; take both from the same model"
        )
    return tokenizer


def lora_of(config: ConfigDict, rows: Sequence[int]) -> Lora | None:
    """Return the adapters that a config asks for; None if it trains all weights.

    Args:
      rows: the ids of the added tokens.
    """
    lora = config.model.lora
    if not lora.rank:
        return None
    matrices = tuple(name for name in MATRICES if name in lora.matrices)
    return Lora(lora.rank, lora.alpha, matrices, tuple(rows))


def _adapted(config: ConfigDict, model: Transformer, tokenizer: Tokenizer) -> Transformer:
    """Return the model with the adapters that a config names, or with these added to its weights.

    Raises:
      UserError: the adapter can't be read, or is not of the config's rank, scale and matrices.
    """
    lora, folder = lora_of(config, tokenizer.added_ids), config.model.adapter
    with jax.default_device(_host()):
        if not folder:
            return model if lora is None else with_lora(model, lora, seed=config.seed)
        loaded = peft.load(folder, model, tokenizer.added_ids)
        if lora is None:
            return merged(loaded)
    found = loaded.config.lora
    assert found is not None
    for name in ("rank", "alpha", "matrices"):
        there, here = getattr(found, name), getattr(lora, name)
        if there != here:
            raise UserError(
                f"config.model.lora.{name} = {here!r}, but the adapter {folder} has {there!r}; "
                "give its value, or a rank of 0 to train all weights"
            )
    return loaded


def _host() -> jax.Device | None:
    """Return the host as a device; None if JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def check_lengths(config: ConfigDict, model: ModelConfig) -> None:
    """Refuse prompts and responses that the model's context can't hold.

    Raises:
      UserError: names the field.
    """
    trains = any(rate > 0 for rate in config.data.mixture.values())
    lengths = {"data.target_length": [config.data.target_length]} if trains else {}
    lengths["evaluation.lengths"] = list(config.evaluation.lengths)
    suites = suite_tasks(config.evaluation.suites)
    # In suites that limit their responses themselves, the length includes the response.
    on_top = trains or any(task.max_new_tokens is None for task in suites)
    for name, values in lengths.items():
        for value in values:
            room = prompt_room(config, value) if name == "evaluation.lengths" else value
            if room + config.decoding.max_new_tokens * on_top > model.max_positions:
                longer = f" (of the release up to {room} tokens)" if room > value else ""
                raise UserError(
                    f"config.{name} = {value}{longer} with decoding.max_new_tokens = "
                    f"{config.decoding.max_new_tokens * on_top} exceeds the model's context of "
                    f"{model.max_positions} tokens; lower one of them, or set "
                    "config.model.extra_positions"
                )
