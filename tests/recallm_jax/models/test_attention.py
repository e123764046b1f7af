"""Attention in blocks and parts equals one plain softmax, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.models import attention
from recallm_jax.models.attention import attend, attend_rows, merge

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


def draw(seed, num_queries, num_keys, batch=2):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(batch, num_queries, HEADS, HEAD_DIM))
    key, value = rng.normal(size=(2, batch, num_keys, KV_HEADS, HEAD_DIM))
    return tuple(jnp.asarray(x, jnp.float32) for x in (query, key, value))


def plain(query, key, value, seen):
    """Softmax attention in float64; `seen` is [batch, Q, P]."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    sums = np.zeros(query.shape[:3])
    for head in range(HEADS):
        kv_head = head // (HEADS // KV_HEADS)
        scores = query[:, :, head] @ key[:, :, kv_head].swapaxes(1, 2) / np.sqrt(HEAD_DIM)
        weights = np.where(seen, np.exp(scores), 0.0)
        total = weights.sum(-1)
        out[:, :, head] = weights @ value[:, :, kv_head] / total[..., None]
        sums[:, :, head] = np.log(total)
    return out, sums


@pytest.mark.parametrize(("block", "segment"), [(1024, 256), (5, 256), (4, 3), (1024, 1), (1, 7)])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_equal_one_plain_softmax(monkeypatch, block, segment, causal):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    monkeypatch.setattr(attention, "MIN_SEGMENT", segment)
    query, key, value = draw(0, 13, 13)
    lengths = np.array([13, 6])
    seen = np.broadcast_to(np.arange(13)[None, None] < lengths[:, None, None], (2, 13, 13))
    if causal:
        seen = seen & np.tril(np.ones((13, 13), bool))[None]
    expected, expected_sums = plain(query, key, value, seen)
    out, sums = attend(query, key, value, key_lengths=jnp.asarray(lengths), causal=causal)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(sums, expected_sums, rtol=0, atol=1e-5)


def test_gradients_do_not_depend_on_the_blocks(monkeypatch):
    query, key, value = draw(1, 9, 9)

    def gradients(block, segment):
        monkeypatch.setattr(attention, "QUERY_BLOCK", block)
        monkeypatch.setattr(attention, "MIN_SEGMENT", segment)

        def loss(*inputs):
            out, sums = attend(*inputs, causal=True)
            return jnp.sum(jnp.sin(out)) + jnp.sum(sums**2)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(query, key, value)

    whole = gradients(1024, 256)
    for block, segment in ((4, 256), (4, 2), (1, 4), (1024, 3)):
        for expected, blocked in zip(whole, gradients(block, segment), strict=True):
            np.testing.assert_allclose(blocked, expected, rtol=0, atol=1e-5)


def test_causal_attention_skips_keys_after_its_segments():
    length = 4 * attention.MIN_SEGMENT
    shapes = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3

    def flops(causal):
        program = jax.jit(lambda *inputs: attend(*inputs, causal=causal)[0])
        return program.lower(*shapes).compile().cost_analysis()["flops"]

    # 10 of 16 blocks, and the masks.
    assert flops(causal=True) < 0.7 * flops(causal=False)


def test_merged_parts_equal_attention_over_all_keys():
    query, key, value = draw(2, 3, 10)
    expected, _ = plain(query, key, value, np.ones((2, 3, 10), bool))
    parts = [attend(query, key[:, a:b], value[:, a:b]) for a, b in ((0, 4), (4, 9), (9, 10))]
    np.testing.assert_allclose(merge(*parts), expected, rtol=0, atol=1e-5)


def test_a_part_without_keys_has_no_weight_and_no_nan():
    query, key, value = draw(3, 3, 6)
    expected, _ = plain(query, key, value, np.ones((2, 3, 6), bool))

    def merged(key):
        nothing = attend(query, 100.0 * key, value, key_lengths=jnp.zeros(2, jnp.int32))
        return merge(attend(query, key, value), nothing)

    np.testing.assert_allclose(jax.jit(merged)(key), expected, rtol=0, atol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda key: merged(key).sum()))(key)).all()


def test_no_square_of_a_long_prompt_is_ever_held():
    length = 32 * attention.QUERY_BLOCK
    shapes = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3

    def loss(*inputs):
        return attend(*inputs, causal=True)[0].sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
    square = 4 * 2 * length * length
    assert compiled.memory_analysis().temp_size_in_bytes < square / 4


@pytest.mark.parametrize("block", [4, 8, 16])
def test_rows_of_a_group_attend_as_each_would_alone(monkeypatch, block):
    """Three rows of 12 tokens in segments of 4: one at a time, two and the last, or all three."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    monkeypatch.setattr(attention, "MIN_SEGMENT", 4)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, 3, 12, 4, 8), (2, 3, 12, 2, 8), (2, 3, 12, 2, 8)]
    rows = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]

    def alone(*rows):
        one = jax.vmap(lambda *row: attend(*row, causal=True), in_axes=1, out_axes=1)
        return one(*rows)

    def output_and_gradients(attended):
        def loss(*rows):
            return sum((x**2).sum() for x in attended(*rows))

        both = jax.jit(lambda *rows: (attended(*rows), jax.grad(loss, (0, 1, 2))(*rows)))
        return jax.tree.leaves(both(*rows))

    found, expected = output_and_gradients(attend_rows), output_and_gradients(alone)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_scores_of_long_rows_are_held_for_part_of_a_group_only():
    length = 4 * attention.QUERY_BLOCK
    shapes = [jax.ShapeDtypeStruct((1, 16, length, 2, 8), jnp.float32)] * 3

    def loss(*inputs):
        return attend_rows(*inputs)[0].sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
    # All rows together take 1.7 times their squares.
    squares = 4 * 2 * 16 * length * length
    assert compiled.memory_analysis().temp_size_in_bytes < squares / 4
