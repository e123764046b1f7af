"""Prompts, rules and a policy small enough to check every token that is decoded."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.packing import lay_out
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules, trace, whole_source
from decoding.span_scores import Scoring, hidden_states, score_tokens
from decoding.spans import find_spans, span_trace
from rl.packing import pack
from tests.oracles.span_oracle import OraclePrompt
from tests.oracles.toy_policy import random_toy_policy

VOCAB, ROWS = 30, 32
START, END, EOS = 27, 28, 29
RULES = SpanRules(
    start_token=START, end_token=END, vocab_size=VOCAB, barriers=(START, END, EOS), max_length=6
)
EDGES = bytes([1, 1, 1, 1, 0, 1] + [1] * (VOCAB - 6))
BOTH = dataclasses.replace(RULES, copy_source="prompt+response", edges=EDGES)
PAPER = dataclasses.replace(BOTH, paper_compatible=True)
PAPER_PROMPT = dataclasses.replace(RULES, paper_compatible=True)
NUM_PROMPTS, GROUP, SIZE, NEW = 4, 8, 20, 24
SAMPLING = Sampling(temperature=0.7)


def make_prompts(seed, num_prompts=NUM_PROMPTS):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, SIZE + 1, num_prompts)
    flags = rng.random((3, num_prompts, SIZE)) < 0.8
    return Prompts(
        tokens=jnp.asarray(rng.integers(0, 6, (num_prompts, SIZE)), jnp.int32),
        lengths=jnp.asarray(lengths, jnp.int32),
        copyable=jnp.asarray(flags[0]),
        span_start=jnp.asarray(flags[1]),
        span_end=jnp.asarray(flags[2]),
    )


def sample_responses(
    policy, prompts, seed=0, sampling=SAMPLING, rules=RULES, prefix=None, stop=(EOS,), **options
):
    keys = row_keys(seed, 0, jnp.arange(prompts.tokens.shape[0]), GROUP)
    limits = Limits(rules, NEW, stop_tokens=stop, **options)
    return decode(policy, prompts, keys, sampling=sampling, limits=limits, prefix=prefix)


def real_tokens(rollout):
    """Return which places hold a token of their response."""
    return np.arange(NEW) < np.asarray(rollout.lengths)[..., None]


def assert_scored_as_sampled(rollout, scores):
    real = real_tokens(rollout)
    np.testing.assert_allclose(
        np.asarray(scores.log_probs)[real], np.asarray(rollout.log_probs)[real], atol=1e-5
    )


def span_loving_policy(seed):
    policy = random_toy_policy(seed, ROWS)
    return type(policy)(table=policy.table.at[:, START].add(2.0))


def oracle_prompt(prompts, b):
    size = int(prompts.lengths[b])
    fields = (prompts.tokens, prompts.copyable, prompts.span_start, prompts.span_end)
    return OraclePrompt(*(np.asarray(field[b, :size]).tolist() for field in fields))


def traced(rollout, rules=RULES):
    source = whole_source(rollout.prompts, rollout.index, rollout.tokens, rules)
    return source, trace(rollout.tokens, source, rules, NEW)


def spans_of(rollout, rules=RULES):
    return find_spans(rollout, span_trace(rollout, rules, NEW), rules, max_occurrences=99)


def score(policy, rollout, temperature, chunk, rules=RULES, size=None):
    """Score responses in rows of their own, or in rows of a size."""
    prompts, scoring = rollout.prompts, Scoring(rules, NEW, temperature, chunk)
    if size is None:
        hidden = policy.score(prompts.tokens, prompts.lengths, rollout.tokens)
        return score_tokens(policy, hidden, rollout, scoring)
    packing = pack(np.asarray(rollout.lengths), (size,), 1)
    layout = lay_out(packing.slots, rollout.lengths, size, NEW)
    hidden = hidden_states(policy, rollout, layout)
    return score_tokens(policy, hidden, rollout, scoring, layout)
