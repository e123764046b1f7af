"""The places of a response's spans in their prompt, closed or not, against brute force."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.rollout import Rollout
from decoding.span_copy import index_prompts
from decoding.spans import find_spans, span_trace
from tests.oracles.span_oracle import context_of, matches
from tests.oracles.toy_decoding import (
    BOTH,
    END,
    GROUP,
    NUM_PROMPTS,
    ROWS,
    RULES,
    START,
    make_prompts,
    oracle_prompt,
)

LENGTH = 40
ENDINGS = ([END], [END], [3, END], [5])


def wild_responses(prompts, seed):
    """Return responses that mostly copy: spans that never end, or go on past their maximum."""
    rng = np.random.default_rng(seed)
    responses = np.zeros((NUM_PROMPTS, GROUP, LENGTH), np.int32)
    for b, g in np.ndindex(NUM_PROMPTS, GROUP):
        written = []
        while len(written) < LENGTH:
            at = rng.integers(0, prompts.lengths[b])
            quote = np.asarray(prompts.tokens[b, at : at + rng.integers(1, 14)]).tolist()
            written += [START, *quote, *ENDINGS[rng.integers(len(ENDINGS))]]
        responses[b, g] = written[:LENGTH]
    return responses, rng.integers(1, LENGTH + 1, (NUM_PROMPTS, GROUP))


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_spans_that_were_never_closed_or_bounded_are_found(rules):
    unclosed = too_long = 0
    for seed in range(2):
        prompts = make_prompts(seed)
        everywhere = jnp.ones_like(prompts.copyable)
        prompts = dataclasses.replace(prompts, copyable=everywhere, span_start=everywhere)
        responses, lengths = wild_responses(prompts, seed)
        index = index_prompts(prompts, rules, ROWS)
        rollout = Rollout(prompts, index, jnp.asarray(responses), jnp.asarray(lengths))
        seen = span_trace(rollout, rules, LENGTH)
        spans = find_spans(rollout, seen, rules, max_occurrences=99)
        for b, g in np.ndindex(NUM_PROMPTS, GROUP):
            prompt = oracle_prompt(prompts, b)
            size = len(prompt.tokens)
            tokens = responses[b, g, : lengths[b, g]].tolist()
            for span in spans[b][g]:
                copied = tokens[span.start : span.end]
                assert span.closed == (span.end < len(tokens))
                if not copied:
                    continue
                context = context_of(prompt, tokens[: span.start], rules, 0)
                places = matches(context, copied, rules.barriers)
                of_prompt = [(p, p + len(copied)) for p in places if p + len(copied) <= size]
                assert list(span.occurrences) == of_prompt, (b, g, span)
                assert span.count == len(of_prompt)
                assert span.response_count == len(places) - len(of_prompt)
                unclosed += not span.closed
                too_long += len(copied) > rules.max_length
    assert unclosed > 10 and too_long > 10


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_only_the_fields_of_states_that_are_read_are_kept(rules):
    """The tokens that may follow a span are many numbers a token, which nothing reads back."""
    prompts = make_prompts(0)
    index = index_prompts(prompts, rules, ROWS)
    responses = jnp.zeros((NUM_PROMPTS, 4, 4096), jnp.int32)

    @jax.jit
    def read_back(responses):
        lengths = jnp.zeros(responses.shape[:2], jnp.int32)
        return span_trace(Rollout(prompts, index, responses, lengths), rules, LENGTH)

    memory = read_back.lower(responses).compile().memory_analysis()
    # For each token a flag and two numbers, before and after the axes are swapped, and some numbers
    # more of the response's text if spans may be copied from it.
    per_token = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / responses.size
    assert per_token < 100
