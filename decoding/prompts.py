"""A batch of tokenised prompts, with flags for their copyable tokens."""

import dataclasses

import jax
from jaxtyping import Bool, Int

from decoding.arrays import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """B right-padded prompts.

    A span copies a run of consecutive `copyable` tokens, from a `span_start` token to a `span_end`
    token. The task, which knows the text, decides on the flags: for example, that a character or a
    word begins or ends there.
    """

    tokens: Int[AnyArray, "B S"]
    lengths: Int[AnyArray, " B"]
    copyable: Bool[AnyArray, "B S"]
    span_start: Bool[AnyArray, "B S"]
    span_end: Bool[AnyArray, "B S"]
