"""One rollout: prompts with a group of responses each, as sampler, scorer and update share it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from decoding.arrays import AnyArray
from decoding.prompts import Prompts
from decoding.suffix_index import SuffixIndex


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """B prompts with G right-padded responses each, of at most T tokens.

    Attributes:
      index: the index of the prompts' copyable text.
      tokens: the responses.
      lengths: the number of tokens of each response, its stop token included: to end is a decision
        like any other.
      log_probs: log softmax(masked logits / temperature) of each sampled token, 0 after the
        response's end; None for responses that were not sampled, such as demonstrations.
    """

    prompts: Prompts
    index: SuffixIndex
    tokens: Int[AnyArray, "B G T"]
    lengths: Int[AnyArray, "B G"]
    log_probs: Float[AnyArray, "B G T"] | None = None

    @property
    def mask(self) -> Bool[Array, "B G T"]:
        """The positions that hold a token of a response, stop tokens included."""
        return jnp.arange(self.tokens.shape[-1])[None, None] < self.lengths[..., None]
