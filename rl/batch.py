"""What passes between the steps of training: the host's side of prompts, and update batches."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from decoding.arrays import AnyArray
from decoding.rollout import Rollout
from rl.advantages import has_spread
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
class ScoredRollout:
    """A rollout with the rewards of its responses.

    Attributes:
      rollout: its responses without a reward are empty.
      totals: rewards in [0, 1], 0 where there is none.
      known: which responses have a reward; nothing is to be learned from the others.
    """

    rollout: Rollout
    totals: Float[AnyArray, "B G"]
    known: Bool[AnyArray, "B G"]

    @property
    def spread(self) -> Bool[np.ndarray, " B"]:
        """Whether the rewards of each group differ: the others teach nothing."""
        return np.asarray(has_spread(self.totals, self.known))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a policy update reads: a rollout with whole groups, and what it teaches.

    Attributes:
      advantages: one for all tokens of a response (T = 1), or one for each.
      old_log_probs: of the policy before the first update on this batch; None stands for the
        policy as it is.
      reference_log_probs: of the frozen reference; None where the loss has no KL penalty.
      old_values: the critic's, before the first update on this batch; None without a critic.
      returns: what the critic is to learn; None without a critic.
    """

    rollout: Rollout
    advantages: Float[AnyArray, "B G #T"]
    old_log_probs: Float[AnyArray, "B G T"] | None = None
    reference_log_probs: Float[AnyArray, "B G T"] | None = None
    old_values: Float[AnyArray, "B G T"] | None = None
    returns: Float[AnyArray, "B G T"] | None = None
