"""In each source, all ways to ask for the tokens that continue a span give the same answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.copy_source import CopySource, PromptAndResponseSource, PromptSource
from decoding.span_copy import advance, index_prompts, initial_state, start_source
from decoding.token_bits import unpack
from tests.oracles.toy_decoding import BOTH, GROUP, NEW, NUM_PROMPTS, ROWS, RULES, make_prompts


@pytest.mark.parametrize(
    ("rules", "kind"), [(RULES, PromptSource), (BOTH, PromptAndResponseSource)], ids=["prompt", "+"]
)
def test_few_tokens_their_bound_and_the_whole_set_agree(rules, kind):
    prompts = make_prompts(5)
    index = index_prompts(prompts, rules, ROWS)
    source = start_source(prompts, index, GROUP, NEW, rules)
    assert isinstance(source, kind) and isinstance(source, CopySource)
    state = initial_state(source, GROUP, NEW)
    rng = np.random.default_rng(0)

    @jax.jit
    def emit(source, state, token):
        return source.extend(state.places, token), advance(state, token, source, rules)

    @jax.jit
    def read(source, state):
        everywhere = jnp.ones(state.inside.shape, bool)
        words = source.next_tokens(state.places, everywhere, ROWS)
        # As many as a window has places.
        few = source.first_next_tokens(state.places, RULES.max_length + NEW)
        return (
            unpack(words, ROWS),
            few,
            source.most_next_tokens(state.places),
            source.goes_on(state.places),
        )

    sizes = []
    for step in range(NEW):
        # Free text first, so that there is a response to copy from.
        token = rng.integers(0, 6, (NUM_PROMPTS, GROUP))
        token = np.where(step == 8, rules.start_token, token)
        if step > 8:
            allowed = np.asarray(sets)
            choice = np.argmax(allowed * rng.random(allowed.shape), axis=-1)
            token = np.where(allowed.any(axis=-1), choice, rules.end_token)
        source, state = emit(source, state, jnp.asarray(token, jnp.int32))
        if step < 8:
            continue
        sets, (tokens, real), most, going = read(source, state)
        for b, g in np.argwhere(np.asarray(state.inside)):
            wanted = np.flatnonzero(sets[b, g]).tolist()
            found = np.asarray(tokens[b, g])[np.asarray(real[b, g])].tolist()
            assert sorted(found) == wanted, "a token is missing, or is there twice"
            assert bool(going[b, g]) == bool(wanted)
            assert len(wanted) <= int(most[b, g])
            sizes.append(len(wanted))
    assert max(sizes) > 3 and min(sizes) < 2
