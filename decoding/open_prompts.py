"""Prompts that are prefilled once and continued many times, as a document is by questions.

What differs from one continuation to the next, such as a question, is added to the open prompts, or
is a prefix of the responses.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from decoding import decode_loop
from decoding.arrays import AnyArray
from decoding.decode_loop import DecodeState, Limits, Prefilled, of_prompts
from decoding.driver import begin, check_prefix, first_capacity, stages
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import RowSampling, Sampling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OpenPrompts:
    """B prompts that the policy has read."""

    prompts: Prompts
    prefilled: Prefilled


@jax.jit
def open_prompts(policy: Policy, prompts: Prompts) -> OpenPrompts:
    """Prefill prompts."""
    size = policy.prompt_sizes(prompts.tokens.shape[1])[-1]
    padding = size - prompts.tokens.shape[1]
    tokens = jnp.pad(prompts.tokens, ((0, 0), (0, padding)))
    return OpenPrompts(prompts, decode_loop.prefill(policy, tokens, prompts.lengths))


@jax.jit
def extended(
    policy: Policy,
    opened: OpenPrompts,
    tokens: Int[AnyArray, "B C"],
    counts: Int[AnyArray, " B"],
) -> OpenPrompts:
    """Return open prompts with more tokens, which spans can't copy; the given ones stay.

    Args:
      tokens, counts: see `Policy.extend`. A prompt must have room for them in its padding.
    """
    prompts = opened.prompts
    rows, number = (x.astype(jnp.int32) for x in jnp.indices(tokens.shape))
    lengths = jnp.asarray(prompts.lengths)
    # What is padding here is written nowhere.
    place = jnp.where(number < counts[:, None], lengths[:, None] + number, prompts.tokens.shape[1])
    longer = dataclasses.replace(
        prompts,
        tokens=jnp.asarray(prompts.tokens).at[rows, place].set(tokens, mode="drop"),
        lengths=lengths + counts,
    )
    return OpenPrompts(longer, decode_loop.extend(policy, opened.prefilled, tokens, counts))


def go_on_from(
    policy: Policy,
    opened: OpenPrompts,
    keys: Key[Array, "B G"],
    *,
    sampling: Sampling | RowSampling,
    limits: Limits,
    prefix: Int[AnyArray, "B G P"] | None = None,
    every: int = 0,
) -> Iterator[Rollout]:
    """Sample G responses for each open prompt, and yield the rollout so far now and then.

    The last one is whole, as `decode` returns it; up to float rounding the samples are the same.

    Args:
      prefix: as in `decode`.
      every: the most steps between two rollouts.

    Raises:
      DecodingInputError: see `decode`.
    """
    check_prefix(prefix, limits)
    prompts = opened.prompts
    state = begin(policy, prompts, keys, sampling, limits, first_capacity(limits))
    state = _enter_all(policy, state, opened.prefilled)
    for so_far in stages(policy, state, sampling, limits, prefix, every):
        yield Rollout(prompts, *of_prompts(so_far, keys.shape[1]))


@functools.partial(jax.jit, donate_argnames="state")
def _enter_all(policy: Policy, state: DecodeState, prefilled: Prefilled) -> DecodeState:
    parts, num_prompts = state.source.index.count.shape
    numbers = jnp.arange(num_prompts, dtype=jnp.int32)
    numbers = jnp.broadcast_to(numbers[None], (parts, num_prompts))
    return decode_loop.seat(policy, state, numbers, prefilled, 0)
