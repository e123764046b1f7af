"""What passes between the steps of training: prompts, rollouts, update batches."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Int

from decoding.arrays import AnyArray
from decoding.prompts import Prompts
from decoding.suffix_index import SuffixIndex
from tasks.scoring.truth import GroundTruth


@dataclasses.dataclass(frozen=True)
class PromptText:
    """The host's side of one prompt: who it is, its text, and what a right answer is."""

    example_id: str
    # Folded into the sampling key; a function of the example alone.
    number: int
    prompt: str
    # The runs of `prompt` that may be copied.
    copyable: tuple[str, ...]
    # Character range in `prompt` of each of its tokens.
    offsets: Int[np.ndarray, "S 2"]
    # None where no right answer is known: a user's own question.
    ground_truth: GroundTruth | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Responses:
    """B groups of G right-padded responses under their prompts, and the prompts' index."""

    prompts: Prompts
    index: SuffixIndex
    tokens: Int[AnyArray, "B G T"]
    # The stop token is part of a response: ending is a decision like any other.
    lengths: Int[AnyArray, "B G"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a policy update reads."""

    responses: Responses
    # One for all tokens of a response (T = 1), or one for each.
    advantages: Float[AnyArray, "B G #T"]
    # Of the sampler, under the span mask, at the sampling temperature.
    sampler_log_probs: Float[AnyArray, "B G T"]
    # Of the policy before the first update on this batch; None stands for the policy as it is.
    old_log_probs: Float[AnyArray, "B G T"] | None
    # Of the frozen reference; None where the loss has no KL penalty.
    reference_log_probs: Float[AnyArray, "B G T"] | None
    # Of the critic before the first update on this batch, and what it is to learn; None without it.
    old_values: Float[AnyArray, "B G T"] | None = None
    returns: Float[AnyArray, "B G T"] | None = None
