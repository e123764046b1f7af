"""Allowed sets at 131,072 tokens, with tables of full size, against a pass over the context."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.copy_source import PromptSource
from decoding.prompts import Prompts
from decoding.span_copy import (
    SpanRules,
    advance,
    allowed_tokens,
    index_prompts,
    initial_state,
)
from decoding.token_bits import unpack

LENGTH, VOCAB = 131_072, 20_000
START, END = VOCAB - 2, VOCAB - 1
RULES = SpanRules(START, END, VOCAB)


@pytest.fixture(scope="module")
def prompts():
    """Two prompts of different lengths: Zipf's ids, two ids, a repeated passage, uniform ids."""
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.2, (2, LENGTH)), START - 1).astype(np.int32)
    tokens[0, 40_000:80_000] = np.where(rng.random(40_000) < 0.5, 7, 11)
    tokens[1, :60_000] = np.tile(tokens[1, :300], 200)
    tokens[1, 60_000:] = rng.integers(0, START, LENGTH - 60_000)
    flags = rng.random((3, 2, LENGTH)) < np.array([0.999, 0.7, 0.02])[:, None, None]
    return Prompts(tokens, np.array([LENGTH, 100_001], np.int32), *flags)


def brute_force(prompts, row, copied):
    """Return the tokens that may follow `copied`, by narrowing the places where it may start."""
    fields = (prompts.tokens, prompts.copyable, prompts.span_start, prompts.span_end)
    tokens, copyable, opens, closes = (field[row, : prompts.lengths[row]] for field in fields)
    tokens = np.where(copyable, tokens, -1)
    places = np.flatnonzero(copyable & opens)
    for depth, token in enumerate(copied):
        places = places[places + depth < len(tokens)]
        places = places[tokens[places + depth] == token]
    if len(copied) == RULES.max_length:
        return {END}
    following = places[places + len(copied) < len(tokens)] + len(copied)
    allowed = set(tokens[following].tolist()) - {-1}
    ends = bool(copied) and closes[places + len(copied) - 1].any()
    return allowed | ({END} if ends or not allowed else set())


# Each row copies from one of these: Zipf's ids, the two ids, the passage, its repetition, uniform.
PLACES = np.array([[1_000, 45_000, 79_900], [5, 330, 99_990]])


def test_allowed_sets_of_131072_tokens_equal_brute_force(prompts):
    index = jax.jit(index_prompts, static_argnums=(1, 2))(prompts, RULES, VOCAB)
    source = PromptSource(index)
    move = jax.jit(functools.partial(advance, rules=RULES))
    read = jax.jit(lambda state: unpack(allowed_tokens(state, source, RULES, VOCAB), VOCAB))
    state = initial_state(source, PLACES.shape[1], 1_000)
    state = move(state, jnp.full(PLACES.shape, START), source)
    rng = np.random.default_rng(1)
    copied = {where: [] for where in np.ndindex(PLACES.shape)}
    sizes, deepest = [], 0
    for depth in range(RULES.max_length + 1):
        allowed = np.asarray(read(state))
        token = np.full(PLACES.shape, END)
        for (row, place), done in copied.items():
            found = np.flatnonzero(allowed[row, place])
            if depth < 6 or depth % 16 == 0 or depth > 125:
                assert set(found.tolist()) == brute_force(prompts, row, done), (row, place, depth)
                sizes.append(len(found))
            at = PLACES[row, place] + depth
            wanted = prompts.tokens[row, min(at, LENGTH - 1)]
            token[row, place] = wanted if wanted in found else rng.choice(found)
        copied = {
            where: [*done, int(token[where])]
            for where, done in copied.items()
            if token[where] != END
        }
        deepest = max(deepest, *map(len, copied.values()), 0)
        state = move(state, jnp.asarray(token), source)
    # Sets of many thousands, and spans to their full length.
    assert len(sizes) > 60 and max(sizes) > 10_000
    assert deepest == RULES.max_length
