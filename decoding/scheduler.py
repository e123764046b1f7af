"""Continuous batching: decoding more groups than fit. Finished groups leave, waiting ones enter.

Prompts are padded to the shortest of a few bucket lengths that holds them. Each bucket has its own
slots, and all shapes are static. A bucket takes four programs: to make the slots, to prefill a
prompt into a slot, to decode until a group has finished, and to take a group out. Some are compiled
twice if the policy is split over devices.

The samples of a prompt depend on its own tokens, keys and settings, not on the other prompts or on
when it enters. Its bucket, and whether all requests share their settings, change float rounding
only.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from decoding.compilations import count_compilations
from decoding.decode_loop import SAMPLED, DecodeState, Limits, enter, of_prompts, start, step
from decoding.errors import DecodingInputError
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import RowSampling, Sampling, stack_sampling
from decoding.suffix_index import SuffixIndex


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt, unpadded, and the keys of its G continuations.

    Attributes:
      sampling: the settings of this request; None takes those of the call.
      prefix: the tokens that all continuations begin with, or those of each one, as in `decode`;
        None for none.
    """

    tokens: Int[np.ndarray, " S"]
    copyable: Bool[np.ndarray, " S"]
    span_start: Bool[np.ndarray, " S"]
    span_end: Bool[np.ndarray, " S"]
    keys: Key[Array, " G"]
    sampling: Sampling | None = None
    prefix: Int[np.ndarray, " P"] | Int[np.ndarray, "G P"] | None = None


@dataclasses.dataclass(frozen=True)
class Finished:
    """The responses of one request, a rollout with B = 1."""

    # The request's place in the order of requests.
    number: int
    rollout: Rollout


def decode_all(
    policy: Policy,
    requests: Iterable[Request],
    *,
    buckets: Sequence[int],
    num_slots: int,
    sampling: Sampling,
    limits: Limits,
    max_prefix: int = 0,
    log: Callable[[str], None] | None = None,
) -> Iterator[Finished]:
    """Yield the responses of all requests as they finish.

    One bucket is decoded at a time, so only its caches exist. Its requests enter in their order,
    each as soon as a slot is free.

    Args:
      buckets: prompt lengths, ascending; each takes four compilations.
      num_slots: the number of groups that are decoded at the same time.
      sampling: the settings of requests without settings.
      max_prefix: the length of the longest prefix, to which all are padded; 0 without prefixes.
      log: takes a line at the end of each bucket, with the number of programs compiled for it.

    Raises:
      DecodingInputError: a prompt is empty or longer than the last bucket, a prefix is longer than
        `max_prefix`, there is not one flag a token, an id is not a token, groups differ in size, or
        buckets do not ascend.
    """
    if list(buckets) != sorted(set(buckets)) or not buckets or num_slots < 1:
        raise DecodingInputError(
            f"buckets {tuple(buckets)} must ascend and num_slots {num_slots} be at least 1"
        )
    if not 0 <= max_prefix <= limits.max_new_tokens:
        raise DecodingInputError(
            f"max_prefix {max_prefix} must lie between 0 and max_new_tokens "
            f"{limits.max_new_tokens}; shorten the prefixes, or raise max_new_tokens"
        )
    waiting: dict[int, list[tuple[int, Request]]] = {size: [] for size in buckets}
    group_size = None
    for number, request in enumerate(requests):
        if group_size is None:
            group_size = request.keys.shape[0]
        _check(number, request, buckets[-1], group_size, max_prefix, limits.rules.vocab_size)
        size = next(size for size in buckets if len(request.tokens) <= size)
        waiting[size].append((number, request))
    with count_compilations(*_PROGRAMS) as compiled:
        for size, queue in waiting.items():
            if not queue:
                continue
            before = compiled()
            yield from _decode_bucket(policy, queue, size, num_slots, sampling, limits, max_prefix)
            if log is not None:
                log(f"bucket of {size} tokens: {compiled() - before} programs compiled")


def _check(
    number: int, request: Request, longest: int, group_size: int, max_prefix: int, vocab_size: int
) -> None:
    size = len(request.tokens)
    if not 1 <= size <= longest:
        raise DecodingInputError(
            f"prompt {number} has {size} tokens; give at least 1 and at most those of the longest "
            f"bucket, {longest}"
        )
    for name in ("copyable", "span_start", "span_end"):
        if len(getattr(request, name)) != size:
            raise DecodingInputError(
                f"{name} of prompt {number} has {len(getattr(request, name))} entries for {size} "
                "tokens; give one a token"
            )
    if request.keys.shape[0] != group_size or not group_size:
        raise DecodingInputError(
            f"prompt {number} has {request.keys.shape[0]} keys, the first prompt {group_size}; "
            "give all prompts as many, and at least one"
        )
    prefix = np.zeros(0, np.int32) if request.prefix is None else np.asarray(request.prefix)
    if prefix.ndim == 2 and len(prefix) != group_size:
        raise DecodingInputError(
            f"prompt {number} has {len(prefix)} prefixes for {group_size} continuations; give each "
            "one, or one for all"
        )
    if prefix.shape[-1] > max_prefix:
        raise DecodingInputError(
            f"the prefix of prompt {number} has {prefix.shape[-1]} tokens, max_prefix is "
            f"{max_prefix}; raise max_prefix"
        )
    for name, tokens in (("prompt", np.asarray(request.tokens)), ("prefix of prompt", prefix)):
        allowed = (tokens >= 0) & (tokens < vocab_size)
        if name != "prompt":
            allowed |= tokens == SAMPLED
        if not allowed.all():
            raise DecodingInputError(
                f"{name} {number} holds token {tokens[~allowed][0]}, not an id of a tokenizer with "
                f"{vocab_size} entries"
            )


def _decode_bucket(
    policy: Policy,
    queue: Sequence[tuple[int, Request]],
    size: int,
    num_slots: int,
    sampling: Sampling,
    limits: Limits,
    max_prefix: int,
) -> Iterator[Finished]:
    settings = _settings([request for _, request in queue], sampling)

    def settings_at(places: Sequence[int]) -> Sampling | RowSampling:
        return jax.tree.map(lambda rows: rows[np.asarray(places)], settings)

    first = queue[0][1]
    state = _empty_slots(
        policy, _padded(first, size), first.keys[None], num_slots, settings_at([0]), limits
    )
    # A program is compiled again for every sharding of its arguments, and the compiler chooses the
    # shardings of its results. So results are moved back to one sharding: on many devices, to that
    # after the first admission.
    shardings = _shardings(state)
    on_many_devices = any(len(one.device_set) > 1 for one in shardings)
    state = _moved_to(state, shardings)
    in_slot: dict[int, tuple[int, Prompts]] = {}
    entered = 0
    while entered < len(queue) or in_slot:
        for slot in range(num_slots):
            if slot not in in_slot and entered < len(queue):
                request = queue[entered][1]
                prompts, keys = _padded(request, size), request.keys[None]
                own = settings_at([entered])
                state = _admit(policy, state, slot, prompts, keys, own, limits)
                if not entered and on_many_devices:
                    shardings = _shardings(state)
                state = _moved_to(state, shardings)
                in_slot[slot] = (entered, prompts)
                entered += 1
        occupied = np.array([slot in in_slot for slot in range(num_slots)])
        # An empty slot takes the settings of any request.
        places = [in_slot[slot][0] if slot in in_slot else 0 for slot in range(num_slots)]
        prefix = _prefixes([queue[place][1] for place in places], max_prefix)
        state, finished = _decode_until_one_finishes(
            policy, state, occupied, settings_at(places), prefix, limits
        )
        state = _moved_to(state, shardings)
        for slot in np.flatnonzero(np.asarray(finished) & occupied).tolist():
            place, prompts = in_slot.pop(slot)
            yield Finished(queue[place][0], Rollout(prompts, *_leave(state, slot, num_slots)))


def _shardings(state: DecodeState) -> list[jax.sharding.Sharding]:
    return [x.sharding for x in jax.tree.leaves(state)]


def _moved_to(state: DecodeState, shardings: list[jax.sharding.Sharding]) -> DecodeState:
    """Return the state with the given shardings; arrays that have them are not copied."""
    leaves, tree = jax.tree.flatten(state)
    return jax.tree.unflatten(tree, jax.device_put(leaves, shardings))


def _settings(requests: Sequence[Request], default: Sampling) -> Sampling | RowSampling:
    """Return the settings that all requests share, or rows of settings, one a request.

    Rows have the same fields for every choice of requests, so that no choice needs a compilation.
    """
    each = [default if request.sampling is None else request.sampling for request in requests]
    if len(set(each)) == 1:
        return each[0]
    return stack_sampling([[one] * requests[0].keys.shape[0] for one in each])


def _prefixes(requests: Sequence[Request], length: int) -> Int[np.ndarray, "B G P"] | None:
    if not length:
        return None
    padded = np.full((len(requests), requests[0].keys.shape[0], length), SAMPLED, np.int32)
    for rows, request in zip(padded, requests, strict=True):
        if request.prefix is not None:
            rows[:, : np.shape(request.prefix)[-1]] = request.prefix
    return padded


def _padded(request: Request, size: int) -> Prompts:
    def padded(values, dtype):
        return np.pad(np.asarray(values, dtype), (0, size - len(values)))[None]

    return Prompts(
        tokens=padded(request.tokens, np.int32),
        lengths=np.array([len(request.tokens)], np.int32),
        copyable=padded(request.copyable, bool),
        span_start=padded(request.span_start, bool),
        span_end=padded(request.span_end, bool),
    )


# The unused values of the policy are kept as arguments, so that the slots are on its devices.
@functools.partial(jax.jit, static_argnames=("num_slots", "limits"), keep_unused=True)
def _empty_slots(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "1 G"],
    num_slots: int,
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> DecodeState:
    """Return slots in which all rows have stopped."""
    many, keys = jax.tree.map(lambda x: jnp.repeat(x, num_slots, axis=0), (prompts, keys))
    state = start(policy, many, keys, sampling, limits, limits.max_new_tokens)
    return dataclasses.replace(state, clock=None, done=jnp.ones_like(state.done))


@functools.partial(jax.jit, static_argnames="limits", donate_argnames="state")
def _admit(
    policy: Policy,
    state: DecodeState,
    slot: Int[Array, ""],
    prompts: Prompts,
    keys: Key[Array, "1 G"],
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> DecodeState:
    """Prefill a prompt into a slot."""
    size = policy.prompt_sizes(prompts.tokens.shape[1])[-1]
    # Its caches have no part in the program.
    one = start(policy, prompts, keys, sampling, limits, 1)
    first = slot * keys.shape[1]

    def put(into: Any, of_one: Any) -> Any:
        def put_rows(all_rows: Array, rows: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(all_rows, rows, first, axis=1)

        return jax.tree.map(put_rows, into, of_one)

    # The row's home is its place.
    state = dataclasses.replace(
        state,
        steps=put(state.steps, one.steps),
        done=put(state.done, one.done),
        keys=put(state.keys, one.keys),
        span=put(state.span, one.span),
        source=state.source.insert(slot, one.source),
        seen=put(state.seen, one.seen),
        tokens=put(state.tokens, one.tokens),
        lengths=put(state.lengths, one.lengths),
        log_probs=put(state.log_probs, one.log_probs),
    )
    return enter(policy, state, prompts, slot[None, None], size, slot * size)


@functools.partial(jax.jit, static_argnames="limits", donate_argnames="state")
def _decode_until_one_finishes(
    policy: Policy,
    state: DecodeState,
    occupied: Bool[Array, " B"],
    sampling: Sampling | RowSampling,
    prefix: Int[Array, "B G P"] | None,
    limits: Limits,
) -> tuple[DecodeState, Bool[Array, " B"]]:
    """Take steps until an occupied slot has finished; return the state and which slots have."""

    def finished(state):
        return state.done.reshape(occupied.shape[0], -1).all(axis=1)

    state = lax.while_loop(
        lambda state: ~(finished(state) & occupied).any(),
        lambda state: step(policy, state, sampling, limits, prefix),
        state,
    )
    return state, finished(state)


@functools.partial(jax.jit, static_argnames="num_slots")
def _leave(
    state: DecodeState, slot: Int[Array, ""], num_slots: int
) -> tuple[SuffixIndex, Int[Array, "1 G T"], Int[Array, "1 G"], Float[Array, "1 G T"]]:
    """Copy a slot's part of a rollout, which later steps overwrite."""
    every = of_prompts(state, state.num_rows // num_slots)
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, slot, 1, axis=0), every)


_PROGRAMS = (_empty_slots, _admit, _decode_until_one_finishes, _leave)
