"""The data between the steps of training: prompts on the host, and batches of updates."""

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
    """One prompt on the host: its id, its text, and its right answer."""

    example_id: str
    # Folded into the sampling key; depends on the example only.
    number: int
    prompt: str
    # The copyable parts of `prompt`.
    copyable: tuple[str, ...]
    # The character range in `prompt` of each token.
    offsets: Int[np.ndarray, "S 2"]
    # None if no right answer is known, as for a user's question.
    ground_truth: GroundTruth | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredRollout:
    """A rollout with the rewards of its responses.

    Attributes:
      rollout: the rollout; its responses without a reward are empty.
      totals: the rewards in [0, 1]; 0 for a response without a reward.
      known: which responses have a reward; updates learn nothing from the others.
    """

    rollout: Rollout
    totals: Float[AnyArray, "B G"]
    known: Bool[AnyArray, "B G"]

    @property
    def spread(self) -> Bool[np.ndarray, " B"]:
        """Which groups have rewards that differ; updates learn nothing from the others."""
        return np.asarray(has_spread(self.totals, self.known))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """The batch of a policy update: a rollout of whole groups, and the targets for it.

    Attributes:
      advantages: one for all tokens of a response (T = 1), or one for each token.
      old_log_probs: by the policy before the first update on this batch; None if that is the
        present policy.
      reference_log_probs: by the frozen reference; None if the loss has no KL penalty.
      old_values: by the critic before the first update on this batch; None without a critic.
      returns: the targets of the critic; None without a critic.
    """

    rollout: Rollout
    advantages: Float[AnyArray, "B G #T"]
    old_log_probs: Float[AnyArray, "B G T"] | None = None
    reference_log_probs: Float[AnyArray, "B G T"] | None = None
    old_values: Float[AnyArray, "B G T"] | None = None
    returns: Float[AnyArray, "B G T"] | None = None
