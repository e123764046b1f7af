"""A batch of tokenised prompts and what may be copied from them."""

import dataclasses

import jax
from jaxtyping import Bool, Int

from decoding.arrays import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """B right-padded prompts.

    A span copies a run of consecutive `copyable` tokens that opens on a `span_start` token and
    closes after a `span_end` token. What these flags mean in the text (a character or a word
    begins or ends there) is decided where the text is known, in the task.
    """

    tokens: Int[AnyArray, "B S"]
    lengths: Int[AnyArray, " B"]
    copyable: Bool[AnyArray, "B S"]
    span_start: Bool[AnyArray, "B S"]
    span_end: Bool[AnyArray, "B S"]
