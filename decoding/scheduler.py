"""Decoding more groups than fit: finished ones leave, waiting ones enter.

Prompts are padded to the shortest of a few bucket lengths; each bucket has its own slots, and all
shapes are static: four programs a bucket, to make the slots, to prefill a prompt into one of them,
to decode until a group has finished, and to take it out. What is sampled for a prompt depends on
its own tokens, keys and settings, not on what else is decoded or when it enters.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Key

from decoding.decode_loop import Decoded, Groups, Limits, start, step
from decoding.errors import DecodingInputError
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import RowSampling, Sampling
from decoding.suffix_index import SuffixIndex


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt, unpadded, and the keys of its G continuations."""

    tokens: Int[np.ndarray, " S"]
    copyable: Bool[np.ndarray, " S"]
    span_start: Bool[np.ndarray, " S"]
    span_end: Bool[np.ndarray, " S"]
    keys: Key[Array, " G"]


@dataclasses.dataclass(frozen=True)
class Finished:
    """The responses of one request, with B = 1."""

    # Its place in the order of the requests.
    number: int
    prompts: Prompts
    decoded: Decoded
    index: SuffixIndex


def decode_all(
    policy: Policy,
    requests: Iterable[Request],
    *,
    buckets: Sequence[int],
    num_slots: int,
    sampling: Sampling,
    limits: Limits,
    log: Callable[[str], None] | None = None,
) -> Iterator[Finished]:
    """Yield the responses of all requests as they finish.

    One bucket is at work at a time, so only its caches exist; within it requests enter in their
    order, each as soon as a slot is free.

    Args:
      buckets: prompt lengths, ascending; each stands for four compilations.
      num_slots: groups that are decoded at the same time.
      log: is told, at the end of each bucket, how many programs it has compiled.

    Raises:
      DecodingInputError: a prompt is longer than the last bucket, or buckets do not ascend.
    """
    if list(buckets) != sorted(set(buckets)) or not buckets or num_slots < 1:
        raise DecodingInputError(
            f"buckets {tuple(buckets)} must ascend and num_slots {num_slots} be at least 1"
        )
    waiting: dict[int, deque[tuple[int, Request]]] = {size: deque() for size in buckets}
    for number, request in enumerate(requests):
        size = next((size for size in buckets if len(request.tokens) <= size), None)
        if size is None:
            raise DecodingInputError(
                f"prompt {number} has {len(request.tokens)} tokens, the longest bucket "
                f"{buckets[-1]}; add a longer one"
            )
        waiting[size].append((number, request))
    for size, queue in waiting.items():
        if queue:
            compiled = _num_programs()
            yield from _decode_bucket(policy, queue, size, num_slots, sampling, limits)
            if log is not None:
                log(f"bucket of {size} tokens: {_num_programs() - compiled} programs compiled")


def _num_programs() -> int:
    return sum(program._cache_size() for program in _PROGRAMS)


def _decode_bucket(
    policy: Policy,
    queue: deque[tuple[int, Request]],
    size: int,
    num_slots: int,
    sampling: Sampling,
    limits: Limits,
) -> Iterator[Finished]:
    prompts = [_padded(request, size) for _, request in queue]
    keys = queue[0][1].keys[None]
    groups = _empty_slots(policy, prompts[0], keys, num_slots, sampling, limits)
    numbers = [number for number, _ in queue]
    in_slot: dict[int, int] = {}
    entered = 0
    while entered < len(queue) or in_slot:
        for slot in range(num_slots):
            if slot not in in_slot and entered < len(queue):
                keys = queue[entered][1].keys[None]
                groups = _admit(policy, groups, slot, prompts[entered], keys, sampling, limits)
                in_slot[slot] = entered
                entered += 1
        occupied = np.array([slot in in_slot for slot in range(num_slots)])
        groups, finished = _decode_until_one_finishes(policy, groups, occupied, sampling, limits)
        for slot in np.flatnonzero(np.asarray(finished) & occupied).tolist():
            place = in_slot.pop(slot)
            leaving = _leave((groups.decoded, groups.source.index), slot)
            yield Finished(numbers[place], prompts[place], *leaving)


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


@functools.partial(jax.jit, static_argnames=("num_slots", "limits"))
def _empty_slots(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "1 G"],
    num_slots: int,
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> Groups:
    """Return slots without a group: arrays of the right shapes, and nothing computed for them."""
    many, keys = jax.tree.map(lambda x: jnp.repeat(x, num_slots, axis=0), (prompts, keys))
    groups = start(policy, many, keys, sampling, limits)

    def empty(x):
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.zeros_like(x)

    groups = jax.tree.map(empty, groups)
    return dataclasses.replace(groups, done=jnp.ones_like(groups.done))


@functools.partial(jax.jit, static_argnames="limits", donate_argnames="groups")
def _admit(
    policy: Policy,
    groups: Groups,
    slot: Int[Array, ""],
    prompts: Prompts,
    keys: Key[Array, "1 G"],
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> Groups:
    """Prefill a prompt into a slot."""
    one = start(policy, prompts, keys, sampling, limits)
    cache = policy.insert(groups.cache, slot, one.cache)
    put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=slot, axis=0)
    entered = jax.tree.map(
        put, dataclasses.replace(groups, cache=None), dataclasses.replace(one, cache=None)
    )
    return dataclasses.replace(entered, cache=cache)


@functools.partial(jax.jit, static_argnames="limits", donate_argnames="groups")
def _decode_until_one_finishes(
    policy: Policy,
    groups: Groups,
    occupied: Bool[Array, " B"],
    sampling: Sampling | RowSampling,
    limits: Limits,
) -> tuple[Groups, Bool[Array, " B"]]:
    """Take steps until an occupied slot has finished; return which have."""

    def goes_on(groups):
        return ~(groups.finished(limits.max_new_tokens) & occupied).any()

    groups = lax.while_loop(goes_on, lambda groups: step(policy, groups, sampling, limits), groups)
    return groups, groups.finished(limits.max_new_tokens)


@jax.jit
def _leave(arrays, slot: Int[Array, ""]):
    """Return a slot's part of arrays, apart from those that go on to be written to."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, slot, 1, axis=0), arrays)


_PROGRAMS = (_empty_slots, _admit, _decode_until_one_finishes, _leave)
