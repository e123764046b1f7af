"""Prefill and the jitted decode loop over groups: B prompts, G continuations of each."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from decoding.arrays import AnyArray
from decoding.copy_source import CopySource
from decoding.errors import DecodingInputError
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import RowSampling, Sampling, log_prob_of, penalise_repetition, sample
from decoding.span_copy import (
    SpanRules,
    SpanState,
    advance,
    index_prompts,
    initial_state,
    mask_logits,
    start_source,
)
from decoding.suffix_index import SuffixIndex
from decoding.token_bits import insert, tokens_of

Processor = Callable[[Array], Array]
# Marks a place of a prefix whose token is sampled. Prefixes of several lengths are padded with it.
SAMPLED = -1


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a response; static.

    Attributes:
      max_new_tokens: T, the most tokens of a response.
      stop_tokens: a response ends with the first of these tokens.
      stop_sequences: it also ends with the first of these sequences. Under the constraint neither
        ends a response inside a recall span: the text there is a quotation, and the span is closed
        first. The end token of a span may be a stop token.
      processor: a user's function from logits [B, G, V] to logits. It runs before the span mask,
        so it can't unmask anything. The trainer does not apply it. Each new function object
        causes a new compilation.
    """

    rules: SpanRules
    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    processor: Processor | None = None

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise DecodingInputError(
                f"max_new_tokens {self.max_new_tokens} leaves no room; give at least 1"
            )
        if not all(self.stop_sequences):
            raise DecodingInputError("stop_sequences holds an empty sequence; leave it out")
        for token in (*self.stop_tokens, *itertools.chain(*self.stop_sequences)):
            if not 0 <= token < self.rules.vocab_size:
                raise DecodingInputError(
                    f"stop token {token} is not an id of a tokenizer with {self.rules.vocab_size} "
                    "entries; leave it out"
                )
        if self.rules.start_token in self.stop_tokens:
            raise DecodingInputError(
                f"stop_tokens holds the start token {self.rules.start_token}, which opens a span "
                "and can't end a response; leave it out"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """The state of decoding B groups, each of which may have taken another number of steps."""

    # The number of tokens that each group has emitted.
    steps: Int[Array, " B"]
    # Rows that have stopped.
    done: Bool[Array, "B G"]
    keys: Key[Array, "B G"]
    # The responses so far; these three are fields of the `Rollout` that decoding returns.
    tokens: Int[Array, "B G T"]
    lengths: Int[Array, "B G"]
    log_probs: Float[Array, "B G T"]
    span: SpanState
    source: CopySource
    # The tokens of prompt and response as packed bits; no words if repetition is not penalised.
    seen: UInt32[Array, "B G words"]
    # The logits of the next token.
    logits: Float[Array, "B G V"]
    cache: Any

    def finished(self, max_new_tokens: int) -> Bool[Array, " B"]:
        """Return which groups are complete."""
        return self.done.all(axis=1) | (self.steps >= max_new_tokens)


def start(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> DecodeState:
    """Prefill each prompt once for its group, and index its copyable text."""
    shape = keys.shape
    capacity, rules = limits.max_new_tokens, limits.rules
    hidden, prompt_cache = policy.prefill(prompts.tokens, prompts.lengths)
    logits = policy.unembed(hidden)
    num_rows = logits.shape[-1]
    index = index_prompts(prompts, rules, num_rows)
    source = start_source(prompts, index, shape[1], capacity, rules)
    seen = jnp.zeros((*shape, 0), jnp.uint32)
    if sampling.counts_repetition:
        of_prompt = tokens_of(prompts.tokens, prompts.lengths, num_rows)
        seen = jnp.broadcast_to(of_prompt[:, None], (*shape, of_prompt.shape[-1]))
    return DecodeState(
        steps=jnp.zeros(shape[0], jnp.int32),
        done=jnp.zeros(shape, bool),
        keys=keys,
        tokens=jnp.zeros((*shape, capacity), jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        log_probs=jnp.zeros((*shape, capacity), jnp.float32),
        span=initial_state(source, shape[1], capacity),
        source=source,
        seen=seen,
        logits=jnp.broadcast_to(logits[:, None], (*shape, num_rows)),
        cache=policy.start(prompt_cache, shape[1], capacity),
    )


def step(
    policy: Policy,
    state: DecodeState,
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[Array, "B G P"] | None = None,
) -> DecodeState:
    """Sample a token for each unfinished row, and compute the logits of the token after it."""
    rules, steps, logits = limits.rules, state.steps, state.logits
    if sampling.counts_repetition:
        logits = penalise_repetition(logits, state.seen, sampling)
    if limits.processor is not None:
        logits = limits.processor(logits)
    logits = mask_logits(logits, state.span, state.source, rules)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)))(state.keys, steps)
    token, log_prob = sample(logits, keys, sampling)
    if prefix is not None:
        place = jnp.minimum(steps, prefix.shape[2] - 1)
        given = jax.vmap(lambda rows, at: rows[:, at])(prefix, place)
        given = jnp.where((steps < prefix.shape[2])[:, None], given, SAMPLED)
        token = jnp.where(given < 0, token, given)
        log_prob = log_prob_of(logits, token, sampling)

    stopped = state.done | (steps >= limits.max_new_tokens)[:, None]
    token = jnp.where(stopped, 0, token)
    # A group that has taken all its steps writes nothing.
    place = jnp.where(stopped.all(axis=1), limits.max_new_tokens, steps)
    tokens = _written(state.tokens, place, token)
    log_probs = _written(state.log_probs, place, jnp.where(stopped, 0.0, log_prob))
    ends = _ends(tokens, token, steps, limits)
    span, source = state.span, state.source
    # Without the constraint no mask reads the span state, so it need not move.
    if rules.constrained:
        moved = advance(span, token, source, rules)
        source = source.extend(span.places, token)
        if not rules.paper_compatible:
            ends &= ~moved.inside
        # A row that has stopped keeps its state, so that no span opens and the mask has no work.
        span = jax.tree.map(
            lambda new, old: jnp.where(jnp.expand_dims(stopped, range(2, new.ndim)), old, new),
            moved,
            span,
        )
        last = (steps + 1 >= limits.max_new_tokens)[:, None]
        span = dataclasses.replace(span, inside=span.inside & ~ends & ~last)
    logits, cache = policy.decode(token, jnp.minimum(steps, limits.max_new_tokens - 1), state.cache)
    return DecodeState(
        steps=steps + ~stopped.all(axis=1),
        done=state.done | ends,
        keys=state.keys,
        tokens=tokens,
        lengths=state.lengths + ~stopped,
        log_probs=log_probs,
        span=span,
        source=source,
        seen=insert(state.seen, token) if sampling.counts_repetition else state.seen,
        logits=logits,
        cache=cache,
    )


def _written(rows: Array, place: Int[Array, " B"], values: Array) -> Array:
    """Write values [B, G] into rows [B, G, T] at each group's place; places past the end don't."""
    return jax.vmap(lambda rows, at, values: rows.at[:, at].set(values, mode="drop"))(
        rows, place, values
    )


def _ends(responses, token, steps, limits: Limits) -> Bool[Array, "B G"]:
    """Return which rows end: their newest token is a stop token or completes a stop sequence."""
    ends = jnp.zeros(token.shape, bool)
    for stop in limits.stop_tokens:
        ends |= token == stop
    for sequence in limits.stop_sequences:
        places = steps[:, None] + jnp.arange(1 - len(sequence), 1, dtype=jnp.int32)[None]
        tail = jax.vmap(lambda rows, at: rows[:, at])(responses, jnp.maximum(places, 0))
        same = (tail == jnp.asarray(sequence, jnp.int32)[None, None]).all(axis=-1)
        ends |= same & (steps + 1 >= len(sequence))[:, None]
    return ends


def decode(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    *,
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[AnyArray, "B G P"] | None = None,
) -> Rollout:
    """Sample G responses for each of B prompts.

    The prompt is prefilled once for its group. The loop runs on the device until every row has
    stopped.

    Args:
      prefix: P tokens that every response begins with; they count in its budget. A token `SAMPLED`
        leaves its place to the policy. Given tokens get log-probabilities as sampled ones do (-inf
        for a forbidden token). They are not checked: a span in the prefix need not be a copy.

    Raises:
      DecodingInputError: the prefix is empty, or longer than `max_new_tokens`.

    Returns:
      The rollout, which holds the given prompts without a copy.
    """
    return Rollout(prompts, *decode_program(policy, prompts, keys, sampling, limits, prefix))


@functools.partial(jax.jit, static_argnames="limits")
def decode_program(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[Array, "B G P"] | None = None,
) -> tuple[SuffixIndex, Int[Array, "B G T"], Int[Array, "B G"], Float[Array, "B G T"]]:
    """Run the compiled part of `decode`; return the fields of its rollout after the prompts."""
    if prefix is not None and not 1 <= prefix.shape[2] <= limits.max_new_tokens:
        raise DecodingInputError(
            f"the prefix has {prefix.shape[2]} tokens; give 1 to max_new_tokens = "
            f"{limits.max_new_tokens}, or None"
        )
    state = lax.while_loop(
        lambda state: ~state.finished(limits.max_new_tokens).all(),
        lambda state: step(policy, state, sampling, limits, prefix),
        start(policy, prompts, keys, sampling, limits),
    )
    return state.source.index, state.tokens, state.lengths, state.log_probs
