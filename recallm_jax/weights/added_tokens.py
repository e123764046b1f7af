"""The four added tokens: their ids in the tokenizer and their rows in the model."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.tensors import layer_arrays, top_arrays
from tasks.prompts.tokenizer_json import read_tokenizer, with_tokens
from tasks.prompts.vocabulary import ADDED_TOKENS

# The standard deviation of the noise on new rows, relative to that of the existing rows' entries.
NOISE = 0.1
ROWS_MULTIPLE = 128


def add_tokens(
    model: Transformer,
    tokenizer_json: str,
    *,
    seed: int,
    tokens: Sequence[str] = ADDED_TOKENS,
    rows_multiple: int = ROWS_MULTIPLE,
) -> tuple[Transformer, str]:
    """Add missing tokens to the tokenizer, and a row for each to the model.

    A new row is the mean of the rows of the tokenizer's own tokens plus small noise, in the
    embedding and in an untied output matrix. Rows past the tokenizer's last id, which pad to a
    multiple for sharding, keep their values or are zero; the decoder never allows them.

    Args:
      tokenizer_json: the text of tokenizer.json.
      seed: the seed of the noise.
      rows_multiple: the model's rows are padded to a multiple of this.

    Returns:
      The model and the tokenizer's text, unchanged if nothing was missing.

    Raises:
      UserError: the tokenizer has ids past the embedding's rows.
      TaskInputError: the text is not a tokenizer.
    """
    tokenizer = read_tokenizer(tokenizer_json)
    size = tokenizer_size(tokenizer)
    rows = model.config.vocab_rows
    if size > rows:
        raise UserError(
            f"the tokenizer has ids up to {size - 1}, but the embedding has {rows} rows: "
            "tokenizer and weights do not belong together"
        )
    own_ids = sorted(set(tokenizer.get_vocab().values()))
    missing = [token for token in tokens if tokenizer.token_to_id(token) is None]
    if missing:
        tokenizer = with_tokens(tokenizer, missing)
        tokenizer_json = tokenizer.to_str()
    vocabulary = tokenizer.get_vocab()
    new_ids = [vocabulary[token] for token in missing]
    wanted = padded_rows(max(rows, tokenizer_size(tokenizer)), rows_multiple)
    if wanted == rows and not missing:
        return model, tokenizer_json
    rng = np.random.default_rng(seed)
    top = dict(top_arrays(model))
    for name in ("embedding", "output"):
        if name in top:
            matrix = np.asarray(top[name])
            top[name] = jnp.asarray(_extended(matrix, own_ids, new_ids, wanted, rng))
    config = dataclasses.replace(model.config, vocab_rows=wanted)
    return Transformer(config, top, layer_arrays(model)), tokenizer_json


def padded_rows(rows: int, multiple: int = ROWS_MULTIPLE) -> int:
    """Return the embedding's rows, padded so that meshes can split them."""
    return -(-rows // multiple) * multiple


def tokenizer_size(tokenizer: Tokenizer) -> int:
    """Return the last id plus one."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def _extended(
    matrix: np.ndarray,
    own_ids: Sequence[int],
    new_ids: Sequence[int],
    rows: int,
    rng: np.random.Generator,
) -> np.ndarray:
    out = np.zeros((rows, matrix.shape[1]), matrix.dtype)
    out[: len(matrix)] = matrix
    existing = matrix[own_ids].astype(np.float32)
    mean, spread = existing.mean(axis=0), existing.std(axis=0)
    for number in new_ids:
        out[number] = mean + NOISE * spread * rng.standard_normal(len(mean))
    return out
