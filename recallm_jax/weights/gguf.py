"""Reading GGUF, llama.cpp's format: weights, tokenizer and chat template of SmolLM2."""

import json
import os
import pathlib
import struct

import numpy as np
from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map

from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.hugging_face import TokenizerFiles
from recallm_jax.weights.settings import Settings
from recallm_jax.weights.special_ids import BOS, EOS, PAD, StatedIds
from recallm_jax.weights.tensors import assemble, check_names, stored_names

# llama.cpp's token types.
_CONTROL, _USER_DEFINED = 3, 4
# The errors of the reader and of `dequantize` on bytes that are not GGUF, or are cut short.
_BROKEN = (ValueError, IndexError, KeyError, OverflowError, struct.error, UnicodeDecodeError)
_FAMILY = "llama"
_PREFIX = f"{_FAMILY}."
# The keys of `llama.` that `_config` uses.
_USED = {
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
}
# The file's own form and origin; `_tokenizer` reads the tokenizer's keys.
_HARMLESS_PREFIXES = ("GGUF.", "general.", "tokenizer.", "quantize.imatrix.", "split.tensors.")
# Options that the decoder lacks, with the values that turn each off.
_OFF: dict[str, tuple] = {
    "llama.rope.scaling.type": ("none",),
    "llama.rope.scale_linear": (1,),
    "llama.expert_count": (0,),
    "llama.expert_used_count": (0,),
    "llama.use_parallel_residual": (False,),
    "llama.attention.causal": (True,),
    "split.count": (0, 1),
    "split.no": (0,),
}


def load(
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: str = "full",
) -> tuple[Transformer, TokenizerFiles]:
    """Load a Llama-architecture GGUF; quantised tensors become float32 values.

    Args: those of `hugging_face.load`.

    Raises:
      UserError: the file is missing or truncated, or something in it is not supported.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give the path of a .gguf file")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        config = _config(fields, tensors, str(path), dtype, remat)
        names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_layers)
        stored = {
            name: names.get_name(name, try_suffixes=(".weight",)) or name
            for name in stored_names(config)
        }
        held = {name for name, own in stored.items() if own in tensors}
        check_names(config, held | (tensors.keys() - set(stored.values())), str(path))

        def read(name: str) -> np.ndarray:
            tensor = tensors[stored[name]]
            try:
                values = dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError:
                raise UserError(
                    f"{path}: tensor {stored[name]!r} has values of type "
                    f"{tensor.tensor_type.name}, which are not read; take a file in another "
                    "quantization, such as Q8_0 or F16"
                ) from None
            values = values.reshape(tuple(int(size) for size in tensor.shape[::-1]))
            if name.endswith("q_proj.weight"):
                return _unpermute(values, config.num_heads)
            if name.endswith("k_proj.weight"):
                return _unpermute(values, config.num_kv_heads)
            return values

        return assemble(config, read, param_dtype, str(path)), _tokenizer(fields, str(path))
    except UserError:
        # It is a ValueError too, but tells the cause itself.
        raise
    except _BROKEN as error:
        raise UserError(
            f"{path} is truncated or not a GGUF file ({error}): fetch it again"
        ) from error


def _config(fields, tensors, origin, dtype, remat) -> ModelConfig:
    architecture = fields.get("general.architecture")
    if architecture != _FAMILY:
        raise UserError(
            f"{origin}: architecture {architecture!r} is not supported in GGUF; use a llama one, "
            "or the model's Hugging Face folder"
        )
    _check_keys(fields, origin)
    if "rope_freqs.weight" in tensors:
        raise UserError(
            f"{origin}: scaled rotary frequencies (tensor rope_freqs.weight) are not read from "
            "GGUF; use the model's Hugging Face folder"
        )
    own = {name.removeprefix(_PREFIX): fields[name] for name in fields if name.startswith(_PREFIX)}
    # llama.cpp's values of absent keys.
    defaults = {
        "rope.freq_base": 10_000.0,
        "vocab_size": len(fields.get("tokenizer.ggml.tokens", ())),
        "attention.head_count_kv": own.get("attention.head_count"),
    }
    settings = Settings(own, f"{origin}: {_FAMILY}", defaults)
    width, num_heads = (
        settings.integer("embedding_length"),
        settings.integer("attention.head_count"),
    )
    head_dim = width // num_heads
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if settings.get(name) not in (None, head_dim):
            raise UserError(
                f"{origin}: {_PREFIX}{name} = {own[name]!r} is not supported in GGUF; only the "
                f"size of a head, {head_dim}, is: use the model's Hugging Face folder"
            )
    return ModelConfig(
        family="llama",
        vocab_rows=settings.integer("vocab_size"),
        width=width,
        num_layers=settings.integer("block_count"),
        num_heads=num_heads,
        num_kv_heads=settings.integer("attention.head_count_kv"),
        head_dim=head_dim,
        mlp_dim=settings.integer("feed_forward_length"),
        max_positions=settings.integer("context_length"),
        rope_theta=settings.number("rope.freq_base"),
        # The file holds a float32; the value that was meant is its shortest decimal.
        norm_eps=float(str(np.float32(settings.number("attention.layer_norm_rms_epsilon")))),
        tie_embeddings="output.weight" not in tensors,
        dtype=dtype,
        remat=remat,
    )


def _check_keys(fields: dict, origin: str) -> None:
    """Refuse a key that changes what the model computes, or that is not known."""
    for name, value in fields.items():
        if name.startswith(_HARMLESS_PREFIXES) or name.removeprefix(_PREFIX) in _USED:
            continue
        if name in _OFF and value in _OFF[name]:
            continue
        raise UserError(
            f"{origin}: the key {name!r} (= {value!r}) is not read from GGUF, and it may change "
            "what the model computes; use the model's Hugging Face folder"
        )


def _unpermute(matrix: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of rotary rows.

    llama.cpp interleaves the halves of each head: row 2i + j of a head is row i of half j. Here, as
    in Hugging Face's layout, the halves are apart.
    """
    rows, columns = matrix.shape
    pairs = matrix.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(fields: dict, origin: str) -> TokenizerFiles:
    """Rebuild tokenizer.json from the tokens, types and merges of a byte-level BPE."""
    kind = (fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UserError(
            f"{origin}: tokenizer {kind} is not read from GGUF, only ('gpt2', 'smollm'); "
            "use the model's Hugging Face folder"
        )
    if "tokenizer.chat_template" not in fields:
        raise UserError(f"{origin} has no chat template; use an instruction-tuned model")
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields["tokenizer.ggml.token_type"]
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token_type == _CONTROL,
        }
        for number, (token, token_type) in enumerate(zip(tokens, types, strict=True))
        if token_type in (_CONTROL, _USER_DEFINED)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content = {
        "added_tokens": added,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    ids = {
        name: fields[f"tokenizer.ggml.{stored}_token_id"]
        for name, stored in ((BOS, "bos"), (PAD, "padding"))
        if f"tokenizer.ggml.{stored}_token_id" in fields
    }
    # The end of a text, of a turn, and of a message that calls a tool.
    ends = [fields.get(f"tokenizer.ggml.{stored}_token_id") for stored in ("eos", "eot", "eom")]
    ids[EOS] = list(dict.fromkeys(number for number in ends if number is not None))
    return TokenizerFiles(
        tokenizer_json=json.dumps(content, ensure_ascii=False),
        chat_template=fields["tokenizer.chat_template"],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        bos_token=tokens[ids[BOS]] if BOS in ids else "",
        special_tokens={"pad_token": tokens[ids[PAD]]} if PAD in ids else {},
        stated=StatedIds(ids),
    )
