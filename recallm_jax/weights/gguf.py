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
from recallm_jax.weights.tensors import assemble

# llama.cpp's token types.
_CONTROL, _USER_DEFINED = 3, 4
# The errors of the reader and of `dequantize` on bytes that are not GGUF, or are cut short.
_BROKEN = (ValueError, IndexError, KeyError, OverflowError, struct.error, UnicodeDecodeError)


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

        def read(name: str) -> np.ndarray:
            tensor = tensors[names.get_name(name, try_suffixes=(".weight",)) or name]
            values = dequantize(tensor.data, tensor.tensor_type)
            values = values.reshape(tuple(int(size) for size in tensor.shape[::-1]))
            if name.endswith("q_proj.weight"):
                return _unpermute(values, config.num_heads)
            if name.endswith("k_proj.weight"):
                return _unpermute(values, config.num_kv_heads)
            return values

        return assemble(config, read, param_dtype, str(path)), _tokenizer(fields, str(path))
    except _BROKEN as error:
        raise UserError(
            f"{path} is truncated or not a GGUF file ({error}): fetch it again"
        ) from error


def _config(fields, tensors, origin, dtype, remat) -> ModelConfig:
    def field(name):
        if name not in fields:
            raise UserError(f"{origin} has no field {name!r}: fetch the file again")
        return fields[name]

    architecture = field("general.architecture")
    if architecture != "llama":
        raise UserError(
            f"{origin}: architecture {architecture!r} is not supported in GGUF; use a llama one, "
            "or the model's Hugging Face folder"
        )
    if "llama.rope.scaling.type" in fields or "rope_freqs.weight" in tensors:
        raise UserError(
            f"{origin}: scaled rotary frequencies are not read from GGUF; "
            "use the model's Hugging Face folder"
        )
    num_heads = field("llama.attention.head_count")
    return ModelConfig(
        family="llama",
        vocab_rows=field("llama.vocab_size"),
        width=field("llama.embedding_length"),
        num_layers=field("llama.block_count"),
        num_heads=num_heads,
        num_kv_heads=field("llama.attention.head_count_kv"),
        head_dim=field("llama.embedding_length") // num_heads,
        mlp_dim=field("llama.feed_forward_length"),
        max_positions=field("llama.context_length"),
        rope_theta=float(field("llama.rope.freq_base")),
        # The file holds a float32; the value that was meant is its shortest decimal.
        norm_eps=float(str(np.float32(field("llama.attention.layer_norm_rms_epsilon")))),
        tie_embeddings="output.weight" not in tensors,
        dtype=dtype,
        remat=remat,
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
    return TokenizerFiles(
        tokenizer_json=json.dumps(content, ensure_ascii=False),
        chat_template=fields["tokenizer.chat_template"],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]]
        if "tokenizer.ggml.bos_token_id" in fields
        else "",
    )
