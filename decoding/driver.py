"""Decoding a batch: the host runs a few programs, so that the cost follows the tokens."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Key

from decoding.arrays import AnyArray, picked
from decoding.decode_loop import DecodeState, Limits, enter, of_prompts, start, step
from decoding.errors import DecodingInputError
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import RowSampling, Sampling


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
    stopped. Its cost follows the tokens that are sampled, not `max_new_tokens`: in long rollouts
    the rows that have stopped are left out, and the caches grow with the responses. After either
    the loop goes on in a program of another size, of a few that are compiled once.

    Args:
      prefix: P tokens that every response begins with; they count in its budget. A token `SAMPLED`
        leaves its place to the policy. Given tokens get log-probabilities as sampled ones do (-inf
        for a forbidden token). They are not checked: a span in the prefix need not be a copy. A
        stop token ends nothing if the prefix goes on after it.

    Raises:
      DecodingInputError: the prefix is empty, or longer than `max_new_tokens`; or the call is part
        of a program.

    Returns:
      The rollout, which holds the given prompts without a copy.
    """
    if any(isinstance(x, jax.core.Tracer) for x in (prompts.tokens, keys)):
        raise DecodingInputError(
            "decode runs several programs and can't be part of one; inside jax.jit call "
            "decode_at_once"
        )
    check_prefix(prefix, limits)
    sizes = policy.prompt_sizes(prompts.tokens.shape[1])
    parts = policy.parts(keys.shape[0])
    longest = [sizes[-1]] * (keys.shape[0] // parts)
    if len(sizes) > 1:
        longest = [int(length) for length in descending(prompts.lengths, parts)]
    waves = plan_waves(longest, sizes)
    # There is room for full prompts, whatever these are: all later programs are compiled for it,
    # and read only what prompts have filled.
    state = begin(policy, prompts, keys, sampling, limits, first_capacity(limits))
    for wave in waves:
        state = enter_wave(policy, state, prompts, wave.count, wave.size, wave.first, wave.place)
    decoded = state
    for decoded in stages(policy, state, sampling, limits, prefix):  # noqa: B007
        pass
    return Rollout(prompts, *of_prompts(decoded, keys.shape[1]))


def check_prefix(prefix: Int[AnyArray, "B G P"] | None, limits: Limits) -> None:
    """Refuse a prefix that is empty or longer than a response.

    Raises:
      DecodingInputError: names both lengths.
    """
    if prefix is not None and not 1 <= prefix.shape[2] <= limits.max_new_tokens:
        raise DecodingInputError(
            f"the prefix has {prefix.shape[2]} tokens; give 1 to max_new_tokens = "
            f"{limits.max_new_tokens}, or None"
        )


def stages(
    policy: Policy,
    state: DecodeState,
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[AnyArray, "B G P"] | None,
    every: int = 0,
) -> Iterator[DecodeState]:
    """Decode to the end, and yield the state after each program, at last the one at the end.

    The next program frees the buffers of a state, so take out of it what is wanted.

    Args:
      every: the most steps of a program; 0 for as many as the sizes of the caches and rows allow.
    """
    limit = limits.max_new_tokens
    capacity = first_capacity(limits)
    grows = capacity < limit
    clock = 0
    while True:
        fewest = next_size(state.num_rows) if grows else 0
        last = min(clock + every, capacity) if every else capacity
        state, living = go_on(policy, state, sampling, limits, prefix, fewest, last)
        # Waits for the device.
        living, clock = int(living), int(state.clock)  # type: ignore[arg-type]
        yield state
        if not living:
            return
        size = state.num_rows
        while grows and living <= next_size(size):
            size = next_size(size)
        if size < state.num_rows:
            state = compact(policy, state, size)
        if clock == capacity:
            capacity = min(max(2 * capacity, 4 * STRIDE), limit)
            state = dataclasses.replace(state, cache=policy.grow(state.cache, capacity))


# The steps that the caches have room for at first. Then it is 4 times as much, then doubled again
# and again.
STRIDE = 64


def first_capacity(limits: Limits) -> int:
    """Return the number of steps that the caches have room for at first.

    If few steps are to come, the caches never grow, and no row is left out.
    """
    return STRIDE if limits.max_new_tokens > 2 * STRIDE else limits.max_new_tokens


def next_size(num_rows: int) -> int:
    """Return the next smaller number of rows that a program is compiled for; 0 after 1.

    They are powers of two, and from 12 on three quarters of these too. A step of few rows costs
    nearly the same for each number of them.
    """
    half = 1 << (num_rows - 1).bit_length() >> 1
    three_quarters = half + half // 2
    return three_quarters if half >= 8 and three_quarters < num_rows else half


@functools.partial(jax.jit, static_argnames="parts")
def descending(lengths: Int[Array, " B"], parts: int) -> tuple[Int[Array, ""], ...]:
    """Return the lengths of each part's prompts in descending order, the most of all parts.

    They are scalars, which each process has whole.
    """
    return tuple(jnp.sort(lengths.reshape(parts, -1), axis=1, descending=True).max(axis=0))


begin = jax.jit(start, static_argnames=("limits", "capacity"))


@functools.partial(jax.jit, static_argnames=("count", "size"), donate_argnames="state")
def enter_wave(
    policy: Policy,
    state: DecodeState,
    prompts: Prompts,
    count: int,
    size: int,
    first: Int[Array, ""] | int,
    place: Int[Array, ""] | int,
) -> DecodeState:
    """Prefill the prompts of a wave."""
    parts = state.home.shape[0]
    order = jnp.argsort(-prompts.lengths.reshape(parts, -1), axis=1, stable=True)
    if count < order.shape[1]:
        order = lax.dynamic_slice_in_dim(order, first, count, axis=1)
    else:
        order = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], order.shape)
    return enter(policy, state, prompts, order.astype(jnp.int32), size, place)


@functools.partial(jax.jit, static_argnames="limits", donate_argnames="state")
def go_on(
    policy: Policy,
    state: DecodeState,
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[Array, "B G P"] | None,
    fewest: Int[Array, ""] | int,
    last: Int[Array, ""] | int,
) -> tuple[DecodeState, Int[Array, ""]]:
    """Take steps until step `last`, or until at most `fewest` rows of each part go on.

    Returns:
      The state, and the most rows of a part that go on.
    """

    def goes_on(state: DecodeState) -> Bool[Array, ""]:
        assert state.clock is not None
        return (state.living > fewest) & (state.clock < last)

    state = lax.while_loop(
        goes_on,
        lambda state: step(policy, state, sampling, limits, prefix),
        state,
    )
    return state, state.living


def compact(policy: Policy, state: DecodeState, num_rows: int) -> DecodeState:
    """Return the state with `num_rows` rows of each part, among which are all that go on.

    The caches of the given state are freed.
    """
    smaller, rows = _leave_out(dataclasses.replace(state, cache=None), num_rows)
    return dataclasses.replace(smaller, cache=policy.keep(state.cache, rows))


@functools.partial(jax.jit, static_argnames="num_rows")
def _leave_out(state: DecodeState, num_rows: int) -> tuple[DecodeState, Int[Array, "A R"]]:
    rows = jnp.argsort(state.done, axis=1, stable=True)[:, :num_rows]

    def left(tree: Any) -> Any:
        return jax.tree.map(lambda values: picked(values, rows), tree)

    smaller = dataclasses.replace(
        state,
        home=left(state.home),
        steps=left(state.steps),
        done=left(state.done),
        keys=left(state.keys),
        span=left(state.span),
        source=state.source.keep(rows),
        seen=left(state.seen),
        logits=left(state.logits),
    )
    return smaller, rows


@functools.partial(jax.jit, static_argnames="limits")
def decode_at_once(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> Rollout:
    """Do what `decode` does in one program, with all rows and full caches from the first step on.

    It may be part of a larger program, and serves well for short responses. It also shows what
    compilers make of decoding: no other program of `decode` takes more memory, except that one
    array of the caches may be there twice while they move.
    """
    limit, num_prompts = limits.max_new_tokens, keys.shape[0] // policy.parts(keys.shape[0])
    size = policy.prompt_sizes(prompts.tokens.shape[1])[-1]
    state = start(policy, prompts, keys, sampling, limits, limit)
    state = enter_wave(policy, state, prompts, num_prompts, size, 0, 0)
    state, _ = go_on(policy, state, sampling, limits, None, 0, limit)
    return Rollout(prompts, *of_prompts(state, keys.shape[1]))


@dataclasses.dataclass(frozen=True)
class Wave:
    """Prompts that enter the caches together; static.

    Attributes:
      first, count: they are `count` prompts of each part, from number `first` on in the order of
        descending lengths.
      size: the number of tokens that they are padded to.
      place: see `Policy.enter`.
    """

    first: int
    count: int
    size: int
    place: int


def plan_waves(longest: Sequence[int], sizes: Sequence[int]) -> list[Wave]:
    """Return the waves in which prompts enter, each padded to one of `sizes` that holds it.

    Args:
      longest: for each place in the order of descending lengths, the most tokens of a part's
        prompt in that place.
    """
    padded = [next(size for size in sizes if size >= length) for length in longest]
    waves, place = [], 0
    for size, ranks in itertools.groupby(range(len(padded)), key=padded.__getitem__):
        first, left = min(ranks), padded.count(size)
        while left:
            # A program is compiled for each number: all of a batch, or a power of two.
            count = left if left == len(padded) else 1 << (left.bit_length() - 1)
            waves.append(Wave(first, count, size, place))
            first, left, place = first + count, left - count, place + count * size
    return waves
