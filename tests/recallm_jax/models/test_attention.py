"""Attention in blocks and parts equals one plain softmax, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.models import attention, row_attention
from recallm_jax.models.attention import attend, merge
from recallm_jax.models.row_attention import BLOCK, attend_rows

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


def rows_in_numpy(query, key, value, starts):
    """`plain` for rows [B, R, P, heads, H]."""
    places = np.arange(query.shape[2])
    seen = (places <= places[:, None]) & (places >= np.asarray(starts)[..., None])
    found = [
        plain(*(x[:, row] for x in (query, key, value)), seen[:, row])
        for row in range(query.shape[1])
    ]
    return tuple(np.stack(x, axis=1) for x in zip(*found, strict=True))


# Responses of 3, 6 and 3 tokens; one response; one token and 11 of padding.
STARTS = np.array([[0] * 3 + [3] * 6 + [9] * 3, [0] * 12, range(12)])


@pytest.mark.parametrize("block", [1, 4, 5, 16])
def test_responses_in_a_row_attend_as_each_would_alone(monkeypatch, block):
    monkeypatch.setattr(row_attention, "BLOCK", block)
    shapes = [(2, 3, 12, HEADS, 8), (2, 3, 12, KV_HEADS, 8), (2, 3, 12, KV_HEADS, 8)]
    rng = np.random.default_rng(0)
    rows = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    starts = jnp.asarray(np.stack([STARTS, STARTS[::-1]]))
    output, sums = attend_rows(*rows, starts)
    expected, expected_sums = rows_in_numpy(*rows, starts)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(sums, expected_sums, atol=1e-5)


def dense_rows(query, key, value, starts):
    """Attend with all scores of a row at once."""
    groups = query.shape[3] // key.shape[3]
    key, value = (jnp.repeat(x, groups, axis=3) for x in (key, value))
    scores = jnp.einsum("brqnh,brknh->brnqk", query, key) * query.shape[-1] ** -0.5
    at = jnp.arange(query.shape[2])
    seen = (at[None] <= at[:, None])[None, None] & (at[None, None, None] >= starts[..., None])
    scores = jnp.where(seen[:, :, None], scores, -jnp.inf)
    output = jnp.einsum("brnqk,brknh->brqnh", jax.nn.softmax(scores), value)
    return output, jnp.moveaxis(jax.nn.logsumexp(scores, axis=-1), 2, 3)


@pytest.mark.parametrize("block", [4, 5])
def test_gradients_within_rows_are_those_of_a_dense_softmax(monkeypatch, block):
    monkeypatch.setattr(row_attention, "BLOCK", block)
    shapes = [(2, 3, 12, HEADS, 8), (2, 3, 12, KV_HEADS, 8), (2, 3, 12, KV_HEADS, 8)]
    rng = np.random.default_rng(1)
    rows = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    weights = jnp.asarray(rng.normal(size=(2, 3, 12, HEADS, 9)), jnp.float32)
    starts = jnp.asarray(np.stack([STARTS, STARTS[::-1]]))

    def gradients(attended):
        def loss(*rows):
            output, sums = attended(*rows, starts)
            return (output * weights[..., :8]).sum() + (sums * weights[..., 8]).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*rows)

    for found, expected in zip(gradients(attend_rows), gradients(dense_rows), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_no_block_of_another_response_is_computed(monkeypatch):
    """Keys and values of other responses may be anything: all blocks but the own are skipped."""
    block = 4
    monkeypatch.setattr(row_attention, "BLOCK", block)
    query, key, value = (x[None] for x in draw(6, 16, 16, batch=1))
    starts = jnp.repeat(jnp.arange(4) * block, block)[None, None]
    expected, _ = attend_rows(query, key, value, starts)
    spoilt = (x.at[0, 0, :block].set(jnp.nan) for x in (key, value))
    found, _ = attend_rows(query, *spoilt, starts)
    np.testing.assert_array_equal(found[0, 0, block:], expected[0, 0, block:])
    assert np.isnan(found[0, 0, :block]).all()


def test_no_square_of_a_row_is_ever_held():
    length = 32 * BLOCK
    shapes = [jax.ShapeDtypeStruct((1, 4, length, 2, 8), jnp.float32)] * 3
    starts = jax.ShapeDtypeStruct((1, 4, length), jnp.int32)

    def loss(*inputs):
        return attend_rows(*inputs)[0].sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes, starts).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 2 * length * length / 4
