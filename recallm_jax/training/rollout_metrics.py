"""What is reported of a step's rollouts: means of rewards, lengths and spans."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from rl.advantages import has_spread
from rl.rollout_text import GroupRewards, RolloutText

# Components of the reward, and what else is averaged over the responses of a step.
REWARDS = ("format", "answer", "retrieval", "overlap", "usage", "density")
OF_REWARDS = (*(f"reward_{name}" for name in REWARDS), "exact_match")
MEANS = (*OF_REWARDS, "response_tokens", "finished", "spans")
PromptMeans = Float[np.ndarray, "B means"]


@dataclasses.dataclass(frozen=True)
class DrawReport:
    """One draw of groups as every process knows it, for the metrics and messages of a step.

    Attributes:
      totals: rewards, 0 where there is none.
      known: which responses have a reward.
      problems: why the others have none.
      means: the means over each prompt's responses of what `MEANS` names.
    """

    totals: Float[np.ndarray, "B G"]
    known: Bool[np.ndarray, "B G"]
    problems: list[str]
    means: PromptMeans


def prompt_means(rollout: RolloutText, rewards: GroupRewards) -> PromptMeans:
    """Return the means over each prompt's responses of what `MEANS` names."""
    means = [
        [
            [
                *(getattr(reward, name) for name in REWARDS),
                reward.exact_match,
                completion.num_tokens,
                completion.finished,
                len(completion.spans),
            ]
            for reward, completion in zip(*group, strict=True)
        ]
        for group in zip(rewards.rewards, rollout.completions, strict=True)
    ]
    return np.array(means, np.float64).mean(axis=1)


def rollout_metrics(reports: Sequence[DrawReport]) -> dict[str, float]:
    """Return a step's means: lengths and spans of all responses, rewards of those that have one."""
    totals = np.concatenate([report.totals for report in reports])
    known = np.concatenate([report.known for report in reports])
    means = np.concatenate([report.means for report in reports]).mean(axis=0)
    # Where there is no reward its components are 0.
    means[: len(OF_REWARDS)] /= max(known.mean(), 1 / known.size)
    return {
        "reward": float(totals[known].mean()) if known.any() else 0.0,
        # Groups whose rewards are all equal teach nothing.
        "groups_with_spread": float(has_spread(totals, known).mean()),
        "draws": float(len(reports)),
        "without_reward": float((~known).sum()),
        **dict(zip(MEANS, means.tolist(), strict=True)),
    }
