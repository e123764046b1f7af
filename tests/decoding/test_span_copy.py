"""The span rules against brute force, token by token."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import locus as locus_module
from decoding import suffix_index
from decoding.copy_source import PromptSource
from decoding.errors import DecodingInputError
from decoding.locus import descend, may_close, next_tokens, root
from decoding.prompts import Prompts
from decoding.span_copy import (
    SpanRules,
    advance,
    index_prompts,
    initial_state,
    mask_logits,
    start_source,
    trace,
    whole_source,
)
from decoding.suffix_index import build_index
from decoding.token_bits import unpack
from tests.oracles.span_oracle import OraclePrompt, allowed_tokens, matches

NUM_PROMPTS, NUM_ROWS, SIZE, VOCAB, VOCAB_ROWS = 3, 2, 14, 8, 10
START, END, CHAT = 5, 6, 7
BUDGET = 12
PADDING = 1


def make_rules(**changes):
    rules = SpanRules(
        start_token=START, end_token=END, vocab_size=VOCAB, barriers=(START, END, CHAT)
    )
    return dataclasses.replace(rules, **changes)


def pad_prompts(prompts, size=SIZE):
    def padded(field, fill):
        rows = [list(getattr(p, field)) + [fill] * (size - len(p.tokens)) for p in prompts]
        return jnp.asarray(rows)

    # The padding claims to be copyable: the lengths alone must keep it out.
    return Prompts(
        tokens=padded("tokens", PADDING),
        lengths=jnp.asarray([len(p.tokens) for p in prompts]),
        copyable=padded("copyable", True),
        span_start=padded("span_start", True),
        span_end=padded("span_end", True),
    )


@functools.partial(jax.jit, static_argnames="rules")
def index_of(prompts, rules):
    return index_prompts(prompts, rules, VOCAB_ROWS)


masked = functools.partial(jax.jit, static_argnames="rules")(mask_logits)


@functools.partial(jax.jit, static_argnames="rules")
def started(prompts, index, rules):
    source = start_source(prompts, index, NUM_ROWS, BUDGET, rules)
    return source, initial_state(source, NUM_ROWS, BUDGET)


@functools.partial(jax.jit, static_argnames="rules")
def moved(source, state, token, rules):
    """Emit a token: the source grows by it, the state moves."""
    return source.extend(state.places, token), advance(state, token, source, rules)


@st.composite
def oracle_prompts(draw, alphabet=4):
    size = draw(st.integers(0, SIZE))
    flags = st.lists(st.booleans() | st.just(True), min_size=size, max_size=size)
    tokens = st.integers(0, alphabet) | st.just(CHAT) if draw(st.booleans()) else st.just(2)
    return OraclePrompt(
        tokens=draw(st.lists(tokens, min_size=size, max_size=size)),
        copyable=draw(flags),
        span_start=draw(flags),
        span_end=draw(flags),
    )


EDGES = bytes([1, 3, 5, 7, 0, 1, 1, 1])
RULES = st.sampled_from(
    [
        make_rules(),
        make_rules(max_length=3),
        make_rules(min_length=2, max_length=4),
        make_rules(barriers=()),
        make_rules(paper_compatible=True),
        make_rules(copy_source="prompt+response", edges=EDGES),
        make_rules(copy_source="prompt+response", edges=EDGES, min_length=2, max_length=4),
        make_rules(copy_source="prompt+response", edges=EDGES, paper_compatible=True),
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(oracle_prompts(), min_size=NUM_PROMPTS, max_size=NUM_PROMPTS),
    RULES,
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, float("nan"), float("inf"), -float("inf"), -1e4]),
)
def test_allowed_sets_equal_brute_force_at_every_step(prompts, rules, random, logit):
    padded = pad_prompts(prompts)
    source, state = started(padded, index_of(padded, rules=rules), rules=rules)
    responses = [[[] for _ in range(NUM_ROWS)] for _ in prompts]
    logits = jnp.full((NUM_PROMPTS, NUM_ROWS, VOCAB_ROWS), logit)
    for _ in range(BUDGET):
        got = np.asarray(masked(logits, state, source, rules=rules))
        chosen = np.zeros((NUM_PROMPTS, NUM_ROWS), np.int32)
        for b, prompt in enumerate(prompts):
            for r in range(NUM_ROWS):
                expected = allowed_tokens(prompt, responses[b][r], rules, BUDGET, before=PADDING)
                assert set(np.flatnonzero(np.isfinite(got[b, r]))) == expected
                assert expected, "a dead end"
                likely = [START] * 4 + [t for t in expected if t != END] * 2 + [END]
                chosen[b, r] = random.choice([t for t in likely if t in expected])
                responses[b][r].append(int(chosen[b, r]))
        source, state = moved(source, state, jnp.asarray(chosen), rules=rules)
    if not rules.paper_compatible:
        assert not np.asarray(state.inside).any(), "a span left open at the end of the budget"


A, B, C, D, X = 0, 1, 2, 3, 4
FREE = set(range(VOCAB)) - {END}


@pytest.mark.parametrize(
    ("changes", "response", "allowed"),
    [
        ({}, [], FREE),
        ({}, [START], {A, B, C, D}),
        ({}, [START, A], {B, END}),
        ({}, [START, A, B], {C, D, END}),
        ({}, [START, A, B, C], {END}),
        ({}, [START, A, B, C, END], FREE),
        ({"min_length": 2}, [START, A], {B}),
        ({"max_length": 2}, [START, A, B], {END}),
        ({"copy_source": "prompt+response"}, [X, D, START], {A, B, C, D, X}),
        ({"copy_source": "prompt+response"}, [X, D, START, X], {D, END}),
        ({"copy_source": "prompt+response"}, [X, D, START, X, D], {END}),
        ({"copy_source": "prompt+response"}, [X, D, START, D], {X, END}),
        ({"copy_source": "prompt+response"}, [X, D, START, D, X], {D, END}),
        ({"copy_source": "prompt+response"}, [X, D, START, D, X, D], {END}),
        ({"paper_compatible": True}, [], FREE | {END}),
        ({"paper_compatible": True}, [END], FREE | {END}),
        ({"paper_compatible": True}, [START], {A, B, C, D, CHAT, END}),
        ({"paper_compatible": True}, [START, A, B, C], {CHAT, END}),
    ],
)
def test_the_worked_examples_of_the_docstring(changes, response, allowed):
    tokens = [A, B, C, CHAT, A, B, D]
    prompt = OraclePrompt(tokens, [token != CHAT for token in tokens], [True] * 7, [True] * 7)
    rules = make_rules(edges=bytes([1] * VOCAB), **changes)
    assert allowed_tokens(prompt, response, rules, BUDGET) == allowed
    padded = pad_prompts([prompt] * NUM_PROMPTS)
    source, state = started(padded, index_of(padded, rules=rules), rules=rules)
    for token in response:
        tokens = jnp.full((NUM_PROMPTS, NUM_ROWS), token)
        source, state = moved(source, state, tokens, rules=rules)
    logits = jnp.zeros((NUM_PROMPTS, NUM_ROWS, VOCAB_ROWS))
    got = np.asarray(masked(logits, state, source, rules=rules))
    assert set(np.flatnonzero(np.isfinite(got[1, 1]))) == allowed


def test_a_token_that_follows_only_one_of_600_matches_is_found():
    # 600 suffixes begin with token 0; only the very last of them goes on with token 3.
    size = 1203
    tokens = [0, 1] * 600 + [0, 3, 2]
    prompt = OraclePrompt(tokens, [True] * size, [True] * size, [True] * size)
    rules = make_rules()
    index = index_of(pad_prompts([prompt], size), rules=rules)
    source = PromptSource(index)
    state = initial_state(source, 1, BUDGET)
    for token in (START, 0):
        source, state = moved(source, state, jnp.full((1, 1), token), rules=rules)
    got = np.asarray(masked(jnp.zeros((1, 1, VOCAB_ROWS)), state, source, rules=rules))
    assert set(np.flatnonzero(np.isfinite(got[0, 0]))) == {1, 3, END}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=40, max_size=40), st.integers(1, 9))
def test_suffixes_are_sorted_by_their_first_tokens_up_to_barriers(tokens, barrier_every):
    copyable = [i % (barrier_every + 1) != barrier_every for i in range(40)]
    prompt = OraclePrompt(tokens, copyable, [True] * 40, [True] * 40)
    rules = make_rules(max_length=4)
    index = index_of(pad_prompts([prompt], 40), rules=rules)
    count = int(index.count[0])
    assert count == sum(copyable)

    def key(start):
        run = []
        for place in range(start, min(start + 4, 40)):
            if not copyable[place]:
                break
            run.append(tokens[place])
        return run

    suffixes = np.asarray(index.suffixes[0])
    keys = [key(start) for start in suffixes[:count]]
    assert keys == sorted(keys)
    assert sorted(suffixes.tolist()) == list(range(40))


def test_trace_gives_the_state_before_each_token():
    prompt = OraclePrompt([0, 1, 2, 0, 1, 3], [True] * 6, [True] * 6, [True] * 6)
    rules = make_rules()
    index = index_of(pad_prompts([prompt]), rules=rules)
    responses = jnp.asarray([[[4, START, 0, 1, 3, END, 4]]])
    states = trace(responses, PromptSource(index), rules, BUDGET)
    assert np.asarray(states.inside[0, 0]).tolist() == [0, 0, 1, 1, 1, 1, 0]
    assert np.asarray(states.places.depth[0, 0]).tolist()[2:6] == [0, 1, 2, 3]
    widths = np.asarray(states.places.high - states.places.low)[0, 0]
    assert widths[2:6].tolist() == [6, 2, 2, 1]
    assert np.asarray(states.budget[0, 0]).tolist() == list(range(BUDGET, BUDGET - 7, -1))


def test_unconstrained_rules_forbid_the_unused_rows_only():
    prompt = OraclePrompt([0, 1], [True] * 2, [True] * 2, [True] * 2)
    rules = make_rules(constrained=False)
    index = index_of(pad_prompts([prompt]), rules=rules)
    source = PromptSource(index)
    state = initial_state(source, 1, BUDGET)
    state = advance(state, jnp.full((1, 1), START), source, rules)
    got = np.asarray(mask_logits(jnp.zeros((1, 1, VOCAB_ROWS)), state, source, rules))
    assert np.isfinite(got[0, 0]).tolist() == [True] * VOCAB + [False] * (VOCAB_ROWS - VOCAB)


def test_impossible_rules_are_refused():
    with pytest.raises(DecodingInputError, match="min_recall_length 9 must lie between"):
        make_rules(min_length=9, max_length=8)
    with pytest.raises(DecodingInputError, match="max_recall_length 40000 is more than 32767"):
        make_rules(max_length=40_000)
    with pytest.raises(DecodingInputError, match="end_token 8 is not an id"):
        make_rules(end_token=VOCAB)
    with pytest.raises(DecodingInputError, match="start_token and end_token are both 5; give two"):
        make_rules(end_token=START)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=90),
    st.integers(2, 12),
    st.randoms(use_true_random=False),
)
def test_every_locus_of_a_prompt_has_the_oracles_tokens_and_places(tokens, every, random):
    size = 90
    flags = {
        name: [random.random() < share for _ in tokens]
        for name, share in (("copyable", 1 - 1 / every), ("span_start", 0.8), ("span_end", 0.2))
    }
    prompt = OraclePrompt(tokens, **flags)
    rules = make_rules(max_length=5, barriers=())
    with small_tables():
        index = small_index_of(pad_prompts([prompt], size), rules=rules)
        copied = []
        locus = root(index, 1)
        while True:
            places = matches(prompt, copied, rules.barriers)
            low, high = int(locus.low[0, 0]), int(locus.high[0, 0])
            assert sorted(np.asarray(index.suffixes[0, low:high]).tolist()) == places
            following = next_ones(prompt, places, len(copied))
            words = small_next_tokens(index, locus, jnp.ones((1, 1), bool))
            assert set(np.flatnonzero(unpack(words, VOCAB_ROWS)[0, 0])) == following
            if copied:
                closing = any(prompt.span_end[place + len(copied) - 1] for place in places)
                assert bool(small_may_close(index, locus)[0, 0]) == closing
            if not following or len(copied) == rules.max_length - 1:
                return
            copied.append(random.choice(sorted(following)))
            locus = small_descend(index, locus, jnp.full((1, 1), copied[-1]))


def next_ones(prompt, places, depth):
    after = [place + depth for place in places]
    return {prompt.tokens[p] for p in after if p < len(prompt.tokens) and prompt.copyable[p]}


@contextlib.contextmanager
def small_tables():
    """Shrink tables and blocks: every search takes several rounds, every table several levels."""
    sizes = {(suffix_index, "WIDE"): 2, (suffix_index, "BLOCK"): 2, (locus_module, "BLOCK"): 2}
    sizes |= {(locus_module, "WINDOW"): 1, (locus_module, "FANOUT"): 2}
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in sizes.items():
            patch.setattr(module, name, value)
        yield


# Compiled only under `small_tables`.
small_index_of = functools.partial(jax.jit, static_argnames="rules")(
    lambda prompts, rules: build_index(
        prompts, num_rows=VOCAB_ROWS, max_length=rules.max_length, barriers=rules.barriers
    )
)
small_next_tokens = jax.jit(lambda *arguments: next_tokens(*arguments))
small_descend = jax.jit(lambda *arguments: descend(*arguments))
small_may_close = jax.jit(lambda *arguments: may_close(*arguments))


def test_ids_that_occur_in_no_text_are_never_copied():
    # 8 and 9 are rows past the tokenizer, 11 is past the vocabulary.
    tokens = [0, 9, 2, 11, 3]
    prompt = OraclePrompt(tokens, [True] * 5, [True] * 5, [True] * 5)
    rules = make_rules(min_length=2)
    padded = pad_prompts([prompt] * NUM_PROMPTS)
    source, state = started(padded, index_of(padded, rules=rules), rules=rules)
    for token, allowed in ((START, {0, 2, 3}), (2, {END})):
        tokens = jnp.full((NUM_PROMPTS, NUM_ROWS), token)
        source, state = moved(source, state, tokens, rules=rules)
        got = masked(jnp.zeros((NUM_PROMPTS, NUM_ROWS, VOCAB_ROWS)), state, source, rules=rules)
        assert set(np.flatnonzero(np.isfinite(got[0, 0]))) == allowed


def test_ids_that_occur_in_no_text_are_never_copied_from_a_response():
    prompt = OraclePrompt([0, 2], [True] * 2, [True] * 2, [True] * 2)
    rules = make_rules(copy_source="prompt+response", edges=bytes([1] * VOCAB_ROWS))
    padded = pad_prompts([prompt] * NUM_PROMPTS)
    source, state = started(padded, index_of(padded, rules=rules), rules=rules)
    for token in (8, 3, 40, -5, START):
        tokens = jnp.full((NUM_PROMPTS, NUM_ROWS), token)
        source, state = moved(source, state, tokens, rules=rules)
    got = masked(jnp.zeros((NUM_PROMPTS, NUM_ROWS, VOCAB_ROWS)), state, source, rules=rules)
    assert set(np.flatnonzero(np.isfinite(got[0, 0]))) == {0, 2, 3}
    response = jnp.broadcast_to(jnp.asarray([8, 3, 40, -5, START]), (NUM_PROMPTS, NUM_ROWS, 5))
    whole = whole_source(padded, source.index, response, rules)
    written = rules.max_length + 5
    np.testing.assert_array_equal(
        whole.text.tokens[..., :written], source.text.tokens[..., :written]
    )
