"""Print our log-probabilities with an adapter, and write the adapter for peft.

    python tests/torch/our_adapter.py WEIGHTS OUT TOKENS

WEIGHTS is what `load_policy` reads, OUT the folder to write, TOKENS a JSON list of ids. The adapter
is random, and far from 0. The last line is JSON: the log-probabilities that TOKENS have after the
first one.
"""

import json
import sys
from typing import cast

import jax
import jax.numpy as jnp

from recallm_jax.models.presets import MATRICES, Lora
from recallm_jax.weights import peft
from recallm_jax.weights.lora import with_lora
from recallm_jax.weights.source import load_policy


def main() -> None:
    weights, out, tokens = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    loaded = load_policy(weights)
    rows = loaded.tokenizer.tokenizer().added_ids
    model = with_lora(loaded.model, Lora(8, 16.0, MATRICES, rows), seed=1)
    keys = iter(jax.random.split(jax.random.key(2), 99))
    # Rows and products of the size that training gives them.
    changed = {
        name: value + 0.02 * jax.random.normal(next(keys), value.shape)
        for name, value in cast(dict[str, jax.Array], model.trained()).items()
    }
    model = model.with_trained(changed)
    peft.save(model, out, loaded.tokenizer)
    ids = jnp.asarray(tokens, jnp.int32)
    hidden = jax.jit(type(model).score)(model, ids[None, :1], jnp.array([1]), ids[None, None, 1:])
    log_probs = jax.nn.log_softmax(model.unembed(hidden)[0, 0, :, : max(rows) + 1])
    print(json.dumps(jnp.take_along_axis(log_probs, ids[1:, None], axis=1)[:, 0].tolist()))


if __name__ == "__main__":
    main()
