"""The NumPy state machine allows what the JAX decoder's does, token for token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from decoding.prompts import Prompts
from decoding.span_copy import (
    SpanRules,
    advance,
    allowed_tokens,
    index_prompts,
    initial_state,
    start_source,
)
from decoding.token_bits import unpack
from recall_spans.machine import Allowed, Response
from recall_spans.prompt import Prompt
from recall_spans.rules import Rules
from recall_spans.suffix_index import SuffixIndex, sort_suffixes
from recall_spans.tokens import BEGINS, WORD_FIRST, WORD_LAST

# Ids from VOCAB on are rows of the output matrix without a token.
VOCAB, ROWS, START, END, CHAT = 9, 11, 6, 7, 8
PROMPTS, GROUP, SIZE, LENGTH = 48, 4, 24, 20
RULES = {
    "default": {},
    "short spans": {"min_length": 2, "max_length": 3},
    "paper": {"paper_compatible": True, "max_length": 4},
    "response": {"copy_source": "prompt+response", "max_length": 5, "min_length": 2},
    "paper, response": {"copy_source": "prompt+response", "paper_compatible": True},
}


def rules_of(changes: dict, edges: np.ndarray) -> tuple[Rules, SpanRules]:
    """Return the same rules for both sides; alignment is in the flags and edges of the tests."""
    values = {"min_length": 1, "max_length": 8, "copy_source": "prompt", "paper_compatible": False}
    values |= changes
    theirs = SpanRules(
        start_token=START,
        end_token=END,
        vocab_size=VOCAB,
        barriers=(START, END, CHAT),
        edges=edges.tobytes() if values["copy_source"] == "prompt+response" else b"",
        **values,
    )
    ours = Rules(
        start_token_id=START,
        end_token_id=END,
        vocab_size=VOCAB,
        barrier_token_ids=(START, END, CHAT),
        span_alignment="character",
        **values,
    )
    return ours, theirs


def random_prompts(rng: np.random.Generator) -> list[Prompt]:
    """Return prompts of few distinct tokens with random flags, empty ones among them."""
    found = []
    for _ in range(PROMPTS):
        size = rng.integers(0, SIZE + 1)
        few = rng.integers(2, VOCAB + 1)
        flags = rng.random((3, size)) < rng.choice([0.6, 0.95, 1.0])
        found.append(Prompt(rng.integers(0, few, size).astype(np.int32), *flags))
    return found


def padded(prompts: list[Prompt]) -> Prompts:
    def field(name):
        rows = [np.pad(getattr(p, name), (0, SIZE - len(p.tokens))) for p in prompts]
        return jnp.asarray(np.stack(rows))

    lengths = jnp.asarray([len(p.tokens) for p in prompts], jnp.int32)
    return Prompts(field("tokens"), lengths, field("copyable"), field("opens"), field("closes"))


def started(rules: Rules, prompt: Prompt, edges: np.ndarray, budget: int | None) -> Response:
    """Return the response to a prompt whose flags ask for tokens that the rules allow."""
    barriers = np.isin(prompt.tokens, rules.all_barriers)
    everywhere = np.ones(len(prompt.tokens), bool)
    if rules.paper_compatible:
        prompt = dataclasses.replace(
            prompt, copyable=everywhere, opens=everywhere, closes=everywhere
        )
        edges = np.full(VOCAB, BEGINS, np.uint8)
    copyable = prompt.copyable & ~barriers
    prompt = Prompt(prompt.tokens, copyable, copyable & prompt.opens, copyable & prompt.closes)
    return Response(rules, SuffixIndex(prompt, rules.max_length), edges, budget)


def flags_of(allowed: Allowed, num_rows: int) -> np.ndarray:
    """Return a flag for each id."""
    if allowed.only is None:
        flags = np.arange(num_rows) < VOCAB
        flags[list(allowed.never)] = False
        return flags
    flags = np.zeros(num_rows, bool)
    flags[allowed.only] = True
    return flags


def decoded(rules, prompts, edges, budgets, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return random responses that mostly keep to the rules, and what was allowed before each."""
    tokens = np.zeros((PROMPTS, GROUP, LENGTH), np.int32)
    allowed = np.zeros((PROMPTS, GROUP, LENGTH, ROWS), bool)
    for b, prompt in enumerate(prompts):
        for g in range(GROUP):
            response = started(rules, prompt, edges, int(budgets[b]))
            for t in range(LENGTH):
                allowed[b, g, t] = flags_of(response.allowed(), ROWS)
                token = rng.choice(np.flatnonzero(allowed[b, g, t]))
                # Spans are opened often, and now and then a token comes that was forbidden.
                if allowed[b, g, t, START] and rng.random() < 0.3:
                    token = START
                if rng.random() < 0.03:
                    token = rng.integers(0, VOCAB)
                tokens[b, g, t] = token
                response.advance([token])
    return tokens, allowed


@functools.partial(jax.jit, static_argnames="rules")
def allowed_by_jax(prompts, tokens, budgets, rules):
    index = index_prompts(prompts, rules, ROWS)
    source = start_source(prompts, index, GROUP, LENGTH, rules)

    def step(carry, token):
        source, state = carry
        words = allowed_tokens(state, source, rules, ROWS)
        source = source.extend(state.places, token)
        return (source, advance(state, token, source, rules)), words

    state = initial_state(source, GROUP, LENGTH)
    budgets = jnp.broadcast_to(budgets[:, None], state.budget.shape)
    state = dataclasses.replace(state, budget=budgets)
    _, words = lax.scan(step, (source, state), jnp.moveaxis(tokens, -1, 0))
    return unpack(jnp.moveaxis(words, 0, 2), ROWS)


@pytest.mark.parametrize("name", RULES)
def test_each_token_is_allowed_as_by_the_decoder(name):
    rng = np.random.default_rng(7)
    edges = rng.choice([0, BEGINS, BEGINS | WORD_FIRST, BEGINS | WORD_FIRST | WORD_LAST], VOCAB)
    edges = edges.astype(np.uint8)
    rules, theirs = rules_of(RULES[name], edges)
    # The second budget ends most responses' spans early.
    budgets = np.resize([LENGTH + 3, LENGTH - 4], PROMPTS).astype(np.int32)
    prompts = random_prompts(rng)
    tokens, allowed = decoded(rules, prompts, edges, budgets, rng)
    expected = np.asarray(allowed_by_jax(padded(prompts), tokens, budgets, theirs))
    np.testing.assert_array_equal(allowed, expected)
    assert np.count_nonzero(allowed.sum(-1) < VOCAB - 2) > 500


def test_a_long_prompt_is_indexed_as_one_whose_suffixes_are_compared_whole():
    rng = np.random.default_rng(1)
    for text in (rng.integers(-1, 3, 400), np.zeros(300, np.int64), np.resize([4, -1, 4, 2], 333)):
        for length in (1, 2, 5, 128):
            order = sort_suffixes(text.astype(np.int32), length)
            padding = [-1] * length
            keys = [tuple([*text, *padding][place : place + length]) for place in order]
            assert keys == sorted(keys)
            assert sorted(order) == list(range(len(text)))


def test_without_a_budget_a_span_is_never_ended_by_force():
    rules, _ = rules_of({"max_length": 128}, np.ones(VOCAB, np.uint8))
    tokens = np.arange(200, dtype=np.int32) % 5
    everywhere = np.ones(200, bool)
    prompt = Prompt(tokens, everywhere, everywhere, everywhere)
    for budget, expected in ((None, {1, END}), (4, {1, END}), (3, {END})):
        response = started(rules, prompt, np.ones(VOCAB, np.uint8), budget)
        response.advance([START, 0])
        allowed = response.allowed()
        assert allowed.only is not None and set(allowed.only.tolist()) == expected
