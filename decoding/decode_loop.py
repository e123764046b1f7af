"""The state of decoding and one step of it, over groups: B prompts, G continuations of each."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt32

from decoding.arrays import picked
from decoding.copy_source import CopySource
from decoding.errors import DecodingInputError
from decoding.policy import Policy, PromptCache
from decoding.prompts import Prompts
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
from decoding.suffix_index import SharedIndex, SuffixIndex
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
      processor: a user's function from logits [..., V] to logits, the same for all rows, which may
        come in any order. It runs before the span mask, so it can't unmask anything. The trainer
        does not apply it. Each new function object causes a new compilation.
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
    """The state of decoding in A parts: R rows of each are computed, out of `rows` in all.

    Devices that split a batch of prompts have a part each. A row is one response; the rows that
    have stopped may be left out (`driver.compact`), so that a step costs what the others cost.
    """

    # The number of steps so far; None if rows begin at different times.
    clock: Int[Array, ""] | None
    # The place of each row among all rows of its part.
    home: Int[Array, "A R"]
    # The number of tokens that each row has emitted.
    steps: Int[Array, "A R"]
    # Rows that have stopped.
    done: Bool[Array, "A R"]
    keys: Key[Array, "A R"]
    span: SpanState
    source: CopySource
    # The tokens of prompt and response as packed bits; no words if repetition is not penalised.
    seen: UInt32[Array, "A R words"]
    # The logits of the next token.
    logits: Float[Array, "A R V"]
    cache: Any
    # The responses so far, of all rows.
    tokens: Int[Array, "A rows T"]
    lengths: Int[Array, "A rows"]
    log_probs: Float[Array, "A rows T"]

    @property
    def living(self) -> Int[Array, ""]:
        """The most rows of a part that go on."""
        return (~self.done).sum(axis=1, dtype=jnp.int32).max()

    @property
    def num_rows(self) -> int:
        """R, the rows of each part that are computed."""
        return self.home.shape[1]

    def of_rows(self, values: Shaped[Array, "B G *rest"]) -> Shaped[Array, "A R *rest"]:
        """Return the values of the rows that are computed, given those of all rows."""
        all_rows = values.reshape(*self.lengths.shape, *values.shape[2:])
        return picked(all_rows, self.home)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefilled:
    """Prompts that the policy has read: what it gives for the next token, and its cache of them."""

    logits: Float[Array, "B V"]
    cache: PromptCache


def start(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: Sampling | RowSampling,
    limits: Limits,
    capacity: int,
) -> DecodeState:
    """Return the state before the prompts have entered the caches, with their text indexed.

    Args:
      capacity: the number of steps that there is room for; `Policy.grow` gives more.
    """
    num_prompts, group_size = keys.shape
    parts = policy.parts(num_prompts)
    num_rows = num_prompts // parts * group_size
    shape = (parts, num_rows)
    rules, limit, vocab_rows = limits.rules, limits.max_new_tokens, policy.vocab_rows
    index = index_prompts(prompts, rules, vocab_rows)
    source = start_source(prompts, index, group_size, limit, rules).in_parts(parts, group_size)
    seen = jnp.zeros((*shape, 0), jnp.uint32)
    if sampling.counts_repetition:
        seen = tokens_of(prompts.tokens, prompts.lengths, vocab_rows)
        seen = jnp.broadcast_to(seen[:, None], (num_prompts, group_size, seen.shape[-1]))
        seen = seen.reshape(*shape, -1)
    return DecodeState(
        clock=jnp.zeros((), jnp.int32),
        home=jnp.broadcast_to(jnp.arange(num_rows, dtype=jnp.int32)[None], shape),
        steps=jnp.zeros(shape, jnp.int32),
        done=jnp.zeros(shape, bool),
        keys=keys.reshape(shape),
        span=initial_state(source, num_rows, limit),
        source=source,
        seen=seen,
        logits=jnp.zeros((*shape, vocab_rows), jnp.float32),
        cache=policy.start(
            num_prompts, group_size, size=prompts.tokens.shape[1], capacity=capacity
        ),
        tokens=jnp.zeros((*shape, limit), jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        log_probs=jnp.zeros((*shape, limit), jnp.float32),
    )


def enter(
    policy: Policy,
    state: DecodeState,
    prompts: Prompts,
    numbers: Int[Array, "A k"],
    size: int,
    place: Int[Array, ""] | int,
) -> DecodeState:
    """Prefill k prompts of each part, once for their groups.

    Args:
      prompts: the prompts of all parts, or A k prompts alone if there are no more.
      numbers: their numbers in their parts.
      size: the number of tokens that they are padded to.
      place: see `Policy.enter`.
    """
    parts, count = numbers.shape
    length = prompts.tokens.shape[1]
    tokens = jnp.pad(prompts.tokens, ((0, 0), (0, max(0, size - length))))[:, :size]
    lengths = prompts.lengths
    if len(prompts.lengths) != parts * count:
        tokens = picked(tokens.reshape(parts, -1, size), numbers).reshape(-1, size)
        lengths = picked(lengths.reshape(parts, -1), numbers).reshape(-1)
    return seat(policy, state, numbers, prefill(policy, tokens, lengths), place)


def prefill(policy: Policy, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]) -> Prefilled:
    """Run prompts through the policy."""
    hidden, cache = policy.prefill(tokens, lengths)
    return Prefilled(policy.unembed(hidden), cache)


def extend(
    policy: Policy, prefilled: Prefilled, tokens: Int[Array, "B C"], counts: Int[Array, " B"]
) -> Prefilled:
    """Run more tokens of prompts through the policy; see `Policy.extend`."""
    hidden, cache = policy.extend(tokens, counts, prefilled.cache)
    return Prefilled(policy.unembed(hidden), cache)


def seat(
    policy: Policy,
    state: DecodeState,
    numbers: Int[Array, "A k"],
    prefilled: Prefilled,
    place: Int[Array, ""] | int,
) -> DecodeState:
    """Put k prefilled prompts of each part into the caches, in the logits and places of their rows.

    Args:
      numbers: their numbers in their parts.
      place: see `Policy.enter`.
    """
    parts, count = numbers.shape
    logits = prefilled.logits.reshape(parts, count, 1, -1)

    def of_rows(old: Array, numbers: Array, new: Array) -> Array:
        groups = old.reshape(-1, num_rows // num_prompts, old.shape[-1])
        return groups.at[numbers].set(jnp.broadcast_to(new, (count, *groups.shape[1:])))

    num_rows = state.num_rows
    num_prompts = state.source.index.count.shape[1]
    groups = jax.vmap(of_rows)(state.logits, numbers, logits)
    return dataclasses.replace(
        state,
        logits=groups.reshape(state.logits.shape),
        cache=policy.enter(state.cache, numbers, prefilled.cache, jnp.asarray(place, jnp.int32)),
    )


def step(
    policy: Policy,
    state: DecodeState,
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[Array, "B G P"] | None = None,
) -> DecodeState:
    """Sample a token for each row that goes on, and compute the logits of the token after it."""
    rules, steps, logits = limits.rules, state.steps, state.logits
    if isinstance(sampling, RowSampling):
        sampling = jax.tree.map(lambda rows: state.of_rows(jnp.asarray(rows)), sampling)
    if sampling.counts_repetition:
        logits = penalise_repetition(logits, state.seen, sampling)
    if limits.processor is not None:
        logits = limits.processor(logits)
    logits = mask_logits(logits, state.span, state.source, rules)
    keys = jax.vmap(jax.vmap(jax.random.fold_in))(state.keys, steps)
    token, log_prob = sample(logits, keys, sampling)
    # Whether the prefix goes on after this token.
    goes_on = jnp.zeros(steps.shape, bool)
    if prefix is not None:
        prefix = prefix.reshape(*state.lengths.shape, -1)
        given = _given(prefix, state.home, steps)
        goes_on = _given(prefix, state.home, steps + 1) >= 0
        token = jnp.where(given < 0, token, given)
        log_prob = log_prob_of(logits, token, sampling)

    stopped = state.done
    token = jnp.where(stopped, 0, token)
    # A row that has stopped writes nothing.
    place = jnp.where(stopped, limits.max_new_tokens, steps)
    tokens = _written(state.tokens, state.home, place, token)
    ends = _ends(tokens, state.home, token, steps, limits) & ~goes_on
    last = steps + 1 >= limits.max_new_tokens
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
        span = dataclasses.replace(span, inside=span.inside & ~ends & ~last)
    # A row that has stopped may be fed anything, at any step.
    number = jnp.minimum(steps, limits.max_new_tokens - 1) if state.clock is None else state.clock
    logits, cache = policy.decode(token, number, state.cache)
    return dataclasses.replace(
        state,
        clock=None if state.clock is None else state.clock + 1,
        steps=steps + ~stopped,
        done=stopped | ends | last,
        span=span,
        source=source,
        seen=insert(state.seen, token) if sampling.counts_repetition else state.seen,
        logits=logits,
        cache=cache,
        tokens=tokens,
        lengths=jax.vmap(lambda rows, home, more: rows.at[home].add(more))(
            state.lengths, state.home, (~stopped).astype(jnp.int32)
        ),
        log_probs=_written(state.log_probs, state.home, place, log_prob),
    )


def _given(
    prefix: Int[Array, "A rows P"], home: Int[Array, "A R"], steps: Int[Array, "A R"]
) -> Int[Array, "A R"]:
    """Return each row's token of a prefix at its step; SAMPLED after the prefix."""
    place = jnp.minimum(steps, prefix.shape[2] - 1)
    given = jax.vmap(lambda of_part, *at: of_part[at])(prefix, home, place)
    return jnp.where(steps < prefix.shape[2], given, SAMPLED)


def _written(
    rows: Shaped[Array, "A rows T"],
    home: Int[Array, "A R"],
    place: Int[Array, "A R"],
    values: Shaped[Array, "A R"],
) -> Shaped[Array, "A rows T"]:
    """Write a value of each row at its place; places past the end are not written."""
    return jax.vmap(lambda rows, *at, value: rows.at[at].set(value, mode="drop"))(
        rows, home, place, value=values
    )


def _ends(responses, home, token, steps, limits: Limits) -> Bool[Array, "A R"]:
    """Return which rows end: their newest token is a stop token or completes a stop sequence."""
    ends = jnp.zeros(token.shape, bool)
    for stop in limits.stop_tokens:
        ends |= token == stop
    for sequence in limits.stop_sequences:
        places = steps[..., None] + jnp.arange(1 - len(sequence), 1, dtype=jnp.int32)[None, None]
        tail = jax.vmap(lambda rows, home, at: rows[home[:, None], at])(
            responses, home, jnp.maximum(places, 0)
        )
        same = (tail == jnp.asarray(sequence, jnp.int32)[None, None]).all(axis=-1)
        ends |= same & (steps + 1 >= len(sequence))
    return ends


@functools.partial(jax.jit, static_argnames="group_size")
def of_prompts(
    state: DecodeState, group_size: int
) -> tuple[SuffixIndex, Int[Array, "B G T"], Int[Array, "B G"], Float[Array, "B G T"]]:
    """Return the fields of a rollout after its prompts: one row a prompt."""
    shared = state.source.index
    assert isinstance(shared, SharedIndex)
    index = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), shared.index)
    responses = (state.tokens, state.lengths, state.log_probs)
    return index, *(x.reshape(-1, group_size, *x.shape[2:]) for x in responses)
