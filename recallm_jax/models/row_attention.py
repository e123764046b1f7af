"""Causal attention within the responses of a row, where plain XLA computes it.

A row holds responses that lie end to end. A block of queries sees few blocks of keys: from the one
where the response of its first query begins, to itself. The loop over them has a bound that the
data decide, so blocks of other responses cost nothing. No scores are kept: the gradient computes
them again (FlashAttention, arXiv 2205.14135).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from recallm_jax.models.attention import MASKED

# The most queries, and keys, of a block.
BLOCK = 128


def attend_rows(
    query: Float[Array, "B R P N H"],
    key: Float[Array, "B R P K H"],
    value: Float[Array, "B R P K H"],
    starts: Int[Array, "B R P"],
) -> tuple[Float[Array, "B R P N H"], Float[Array, "B R P N"]]:
    """Attend from each position of a row to its own response, up to itself.

    Args:
      starts: the position at which the response of each position begins; it does not fall along a
        row.

    Returns:
      The output, and the log-sum-exp of the scores, as `attend` does.
    """
    rows, length = query.shape[:2], query.shape[2]
    block = min(BLOCK, length)
    padding = -length % block

    def padded(x):
        x = x.reshape(-1, *x.shape[2:])
        return jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))

    # Padding is a response that begins after all others.
    starts = jnp.where(jnp.arange(length + padding)[None] < length, padded(starts), length)
    inputs = (*map(padded, (query, key, value)), starts)
    output, sums = lax.map(lambda row: _attend(block, *row), inputs)
    return (
        output[:, :length].reshape(query.shape),
        sums[:, :length].reshape(*rows, length, query.shape[3]),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(block: int, query, key, value, starts):
    """Attend within one row: queries [P, N, H], keys and values [P, K, H], starts [P]."""
    return _forward(block, query, key, value, starts)[0]


def _forward(block, query, key, value, starts):
    queries, keys, values = (_in_blocks(x, key.shape[1], block) for x in (query, key, value))
    blocks = starts.reshape(-1, block)

    def one_block(number):
        def add(other, carry):
            total, weight, peak = carry
            scores = _scores(queries[number], keys[other], blocks[number], number, other)
            higher = jnp.maximum(peak, scores.max(axis=-1))
            shrink, weights = jnp.exp(peak - higher), jnp.exp(scores - higher[..., None])
            seen = jnp.einsum(
                "krc,kch->krh",
                weights.astype(value.dtype),
                values[other],
                preferred_element_type=jnp.float32,
            )
            total = total * shrink[..., None] + seen
            return total, weight * shrink + weights.sum(axis=-1), higher

        shape = queries.shape[1:]
        nothing = jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:2], jnp.float32)
        start = (*nothing, jnp.full(shape[:2], MASKED, jnp.float32))
        # Each query sees itself, so the weight is above 0 in the end.
        first = blocks[number, 0] // block
        total, weight, peak = lax.fori_loop(first, number + 1, add, start)
        return (total / weight[..., None]).astype(query.dtype), peak + jnp.log(weight)

    output, sums = lax.map(one_block, jnp.arange(len(queries)))
    results = _of_blocks(output, query.shape), _of_blocks(sums[..., None], query.shape)[..., 0]
    return results, (query, key, value, starts, *results)


def _backward(block, kept, gradients):
    query, key, value, starts, output, sums = kept
    of_output, of_sums = gradients
    queries, keys, values, wanted = (
        _in_blocks(x, key.shape[1], block) for x in (query, key, value, of_output)
    )
    # A score's gradient is its weight times (d output . value - this).
    mean = (of_output.astype(jnp.float32) * output.astype(jnp.float32)).sum(axis=-1) - of_sums
    means, levels = (_in_blocks(x[..., None], key.shape[1], block)[..., 0] for x in (mean, sums))
    blocks = starts.reshape(-1, block)
    scale = query.shape[-1] ** -0.5
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def one_block(carry, number):
        def add(other, carry):
            of_query, of_keys, of_values = carry
            scores = _scores(queries[number], keys[other], blocks[number], number, other)
            weights = jnp.exp(scores - levels[number][..., None])
            of_weights = product("krh,kch->krc", wanted[number], values[other])
            of_scores = weights * (of_weights - means[number][..., None]) * scale
            weights, of_scores = weights.astype(value.dtype), of_scores.astype(value.dtype)
            of_query = of_query + product("krc,kch->krh", of_scores, keys[other])
            of_key = product("krc,krh->kch", of_scores, queries[number])
            of_value = product("krc,krh->kch", weights, wanted[number])
            return of_query, of_keys.at[other].add(of_key), of_values.at[other].add(of_value)

        start = (jnp.zeros(queries.shape[1:], jnp.float32), *carry)
        first = blocks[number, 0] // block
        of_query, *carry = lax.fori_loop(first, number + 1, add, start)
        return tuple(carry), of_query

    zeros = jnp.zeros(keys.shape, jnp.float32)
    (of_keys, of_values), of_queries = lax.scan(
        one_block, (zeros, jnp.copy(zeros)), jnp.arange(len(queries))
    )
    return (
        _of_blocks(of_queries, query.shape).astype(query.dtype),
        _of_blocks(of_keys, key.shape).astype(key.dtype),
        _of_blocks(of_values, value.shape).astype(value.dtype),
        None,
    )


_attend.defvjp(_forward, _backward)


def _scores(queries, keys, starts, number, other):
    """Return the scaled scores [K, rows, block] of one block of queries with one of keys."""
    block, head_dim = keys.shape[1:]
    scores = jnp.einsum("krh,kch->krc", queries, keys, preferred_element_type=jnp.float32)
    at = other * block + jnp.arange(block)
    own = number * block + jnp.arange(block)
    seen = (at[None] >= starts[:, None]) & (at[None] <= own[:, None])
    # The query heads of a key head come one after the other.
    seen = jnp.tile(seen, (queries.shape[1] // block, 1))[None]
    return jnp.where(seen, scores * head_dim**-0.5, MASKED)


def _in_blocks(x, num_kv_heads: int, block: int):
    """Return tokens [P, heads, H] as [blocks, K, heads / K * block, H]."""
    x = x.reshape(-1, block, num_kv_heads, x.shape[1] // num_kv_heads, x.shape[2])
    return x.transpose(0, 2, 3, 1, 4).reshape(len(x), num_kv_heads, -1, x.shape[-1])


def _of_blocks(x, shape: tuple[int, ...]):
    """Return tokens [P, heads, ...] from blocks; `shape` begins with P and heads."""
    length, heads = shape[:2]
    num_kv_heads = x.shape[1]
    x = x.reshape(len(x), num_kv_heads, heads // num_kv_heads, -1, x.shape[-1])
    return x.transpose(0, 3, 1, 2, 4).reshape(length, heads, x.shape[-1])
