"""Ranks and shared prefixes of suffixes, against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.suffix_sort import BARRIER, common_prefixes, prefix_ranks

MAX_LENGTH = 8


def beginning(text: list[int], start: int, count: int) -> tuple[int, ...]:
    """Return a suffix's first tokens; from the barrier or the end on, barriers."""
    tokens = text[start : start + count]
    cut = tokens.index(BARRIER) if BARRIER in tokens else len(tokens)
    return (*tokens[:cut], *[BARRIER] * (count - cut))


def texts():
    rng = np.random.default_rng(0)
    # Two suffixes "1 |" whose texts differ after the barrier.
    yield [1, BARRIER, 7, 1, BARRIER, 8, 2, 3, 4, 2, 3, 5]
    yield [2] * 20
    for size, vocabulary, barriers in ((1, 2, 0), (40, 2, 0), (60, 3, 0.1), (60, 2, 0.3)):
        text = rng.integers(0, vocabulary, size)
        yield np.where(rng.random(size) < barriers, BARRIER, text).tolist()


@pytest.mark.parametrize("text", list(texts()))
def test_ranks_are_equal_and_ordered_like_the_tokens(text):
    levels = np.asarray(jax.jit(prefix_ranks, static_argnums=1)(jnp.array(text), MAX_LENGTH))
    assert levels.shape == (4, len(text))
    for number, ranks in enumerate(levels):
        keys = [beginning(text, start, 2**number) for start in range(len(text))]
        places = {key: place for place, key in enumerate(sorted(set(keys)))}
        # Ranks by more tokens are in the same order, once ranks by fewer are all different.
        got = {rank: place for place, rank in enumerate(sorted(set(ranks.tolist())))}
        assert [got[rank] for rank in ranks.tolist()] == [places[key] for key in keys]
        assert all(
            (rank == 0) == (token == BARRIER) for rank, token in zip(ranks, text, strict=True)
        )


@pytest.mark.parametrize("text", list(texts()))
def test_shared_tokens_are_counted_up_to_a_limit(text):
    levels = jax.jit(prefix_ranks, static_argnums=1)(jnp.array(text), MAX_LENGTH)
    first, second = np.indices((len(text), len(text))).reshape(2, -1)
    counted = common_prefixes(levels, jnp.array(first), jnp.array(second))
    for i, j, found in zip(first.tolist(), second.tolist(), counted.tolist(), strict=True):
        one, other = beginning(text, i, MAX_LENGTH), beginning(text, j, MAX_LENGTH)
        if one == other:
            assert found >= MAX_LENGTH
        else:
            assert found == [a == b for a, b in zip(one, other, strict=True)].index(False)
