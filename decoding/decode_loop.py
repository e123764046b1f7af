"""Prefill and the jitted decode loop over groups: B prompts, G continuations of each."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import RowSampling, Sampling, log_prob_of, penalise_repetition, sample
from decoding.span_copy import (
    SpanRules,
    advance,
    extend_source,
    index_prompts,
    initial_state,
    mask_logits,
    start_source,
)
from decoding.suffix_index import SuffixIndex
from decoding.token_bits import insert, tokens_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """The sampled responses. `lengths` count the stop token or sequence where there is one."""

    responses: Int[Array, "B G T"]
    lengths: Int[Array, "B G"]
    # log softmax(masked logits / temperature) of each token; 0 past the length.
    log_probs: Float[Array, "B G T"]


Processor = Callable[[Array], Array]


@functools.partial(
    jax.jit,
    static_argnames=("rules", "max_new_tokens", "stop_tokens", "stop_sequences", "processor"),
)
def decode(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    *,
    rules: SpanRules,
    sampling: Sampling | RowSampling,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    stop_sequences: tuple[tuple[int, ...], ...] = (),
    processor: Processor | None = None,
    prefix: Int[Array, "B G P"] | None = None,
) -> tuple[Decoded, SuffixIndex]:
    """Sample G responses of at most `max_new_tokens` for each of B prompts.

    The prompt is prefilled once for its group. The loop ends when every row has stopped; the host
    is not asked meanwhile.

    Args:
      stop_tokens: a response ends with the first of these.
      stop_sequences: or with the first of these, longer ones. Under the constraint neither ends a
        response inside a recall span: what is copied there is a quotation, and the span is closed.
      processor: the user's own function from logits [B, G, V] to logits. It comes before the span
        mask, so it can't unmask anything; the trainer does not know it.
      prefix: P tokens that every response begins with, counted in its budget. Their
        log-probabilities are given like those of sampled ones (-inf for a forbidden token).

    Returns:
      The responses, and the prompts' index (for span offsets and for the trainer).
    """
    num_prompts, group_size = keys.shape
    shape = (num_prompts, group_size)
    hidden, prompt_cache = policy.prefill(prompts.tokens, prompts.lengths)
    first_logits = policy.unembed(hidden)
    num_rows = first_logits.shape[-1]
    index = index_prompts(prompts, rules, num_rows)
    source = start_source(prompts, index, group_size, max_new_tokens, rules)
    counts_repetition = sampling.counts_repetition
    seen = jnp.zeros((*shape, 0), jnp.uint32)
    if counts_repetition:
        of_prompt = tokens_of(prompts.tokens, prompts.lengths, num_rows)
        seen = jnp.broadcast_to(of_prompt[:, None], (*shape, of_prompt.shape[-1]))

    def emit(step, logits, state, source, seen, done):
        if counts_repetition:
            logits = penalise_repetition(logits, seen, sampling)
        if processor is not None:
            logits = processor(logits)
        logits = mask_logits(logits, state, source, rules)
        step_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, step)))(keys)
        token, log_prob = sample(logits, step_keys, sampling)
        if prefix is not None:
            given = prefix[:, :, jnp.minimum(step, prefix.shape[2] - 1)]
            token = jnp.where(step < prefix.shape[2], given, token)
            log_prob = log_prob_of(logits, token, sampling)
        return jnp.where(done, 0, token), jnp.where(done, 0.0, log_prob)

    def stops(token, responses, step):
        ends = functools.reduce(
            jnp.logical_or, [token == stop for stop in stop_tokens], jnp.zeros(shape, bool)
        )
        for sequence in stop_sequences:
            places = step - len(sequence) + 1 + jnp.arange(len(sequence), dtype=jnp.int32)
            tail = responses[:, :, jnp.maximum(places, 0)]
            same = tail == jnp.asarray(sequence, jnp.int32)[None, None]
            ends |= (step + 1 >= len(sequence)) & same.all(axis=-1)
        return ends

    def unfinished(carry):
        step, done = carry[0], carry[1]
        return (step < max_new_tokens) & ~done.all()

    def body(carry):
        step, done, state, source, seen, logits, cache, responses, log_probs, lengths = carry
        lengths = lengths + ~done
        token, log_prob = emit(step, logits, state, source, seen, done)
        responses = lax.dynamic_update_index_in_dim(responses, token, step, axis=2)
        log_probs = lax.dynamic_update_index_in_dim(log_probs, log_prob, step, axis=2)
        if counts_repetition:
            seen = insert(seen, token)
        # A finished row leaves its span state alone, so that it can't keep the mask at work.
        moved = advance(state, token, source, rules)
        source = extend_source(source, state, token, rules)
        ended = stops(token, responses, step)
        if rules.constrained and not rules.paper_compatible:
            ended &= ~(state.inside | moved.inside)
        state = jax.tree.map(
            lambda new, old: jnp.where(jnp.expand_dims(done, range(2, new.ndim)), old, new),
            moved,
            state,
        )
        steps = jnp.full(num_prompts, step, jnp.int32)
        logits, cache = policy.decode(token, steps, cache)
        return (
            *(step + 1, done | ended, state, source, seen, logits, cache),
            *(responses, log_probs, lengths),
        )

    first = (
        jnp.int32(0),
        jnp.zeros(shape, bool),
        initial_state(source, group_size, max_new_tokens, rules),
        source,
        seen,
        jnp.broadcast_to(first_logits[:, None], (*shape, num_rows)),
        policy.start(prompt_cache, group_size, max_new_tokens),
        jnp.zeros((*shape, max_new_tokens), jnp.int32),
        jnp.zeros((*shape, max_new_tokens), jnp.float32),
        jnp.zeros(shape, jnp.int32),
    )
    *_, responses, log_probs, lengths = lax.while_loop(unfinished, body, first)
    return Decoded(responses=responses, lengths=lengths, log_probs=log_probs), index
