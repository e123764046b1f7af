"""Metrics of a step's rollouts: means of rewards, lengths and spans."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from recallm_jax.training.speed import TokenCounts
from rl.advantages import has_spread
from rl.rollout_text import GroupRewards, RolloutText

# Components of the reward, and other quantities that are averaged over the responses of a step.
REWARDS = ("format", "answer", "retrieval", "overlap", "usage", "density")
OF_REWARDS = (*(f"reward_{name}" for name in REWARDS), "exact_match")
MEANS = (*OF_REWARDS, "response_tokens", "finished", "spans")
PromptMeans = Float[np.ndarray, "B means"]


@dataclasses.dataclass(frozen=True)
class DrawReport:
    """The rewards and means of one draw, for the metrics and messages of a step.

    Every process has the same report on all prompts.

    Attributes:
      totals: the rewards; 0 for a response without a reward.
      known: which responses have a reward.
      problems: the reasons why the others have none.
      means: for each prompt, the means in `MEANS` over its responses.
      tokens: the tokens of all prompts and responses.
    """

    totals: Float[np.ndarray, "B G"]
    known: Bool[np.ndarray, "B G"]
    problems: list[str]
    means: PromptMeans
    tokens: TokenCounts


def prompt_means(read: RolloutText, rewards: GroupRewards) -> PromptMeans:
    """Return, for each prompt, the means in `MEANS` over its responses."""
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
        for group in zip(rewards.rewards, read.completions, strict=True)
    ]
    return np.array(means, np.float64).mean(axis=1)


def rollout_metrics(reports: Sequence[DrawReport]) -> dict[str, float]:
    """Return a step's metrics: means over all responses, of rewards over those that have one."""
    totals = np.concatenate([report.totals for report in reports])
    known = np.concatenate([report.known for report in reports])
    means = np.concatenate([report.means for report in reports]).mean(axis=0)
    # The components are 0 for a response without a reward.
    means[: len(OF_REWARDS)] /= max(known.mean(), 1 / known.size)
    return {
        "reward": float(totals[known].mean()) if known.any() else 0.0,
        # Updates learn nothing from the other groups.
        "groups_with_spread": float(has_spread(totals, known).mean()),
        "draws": float(len(reports)),
        "without_reward": float((~known).sum()),
        "prompt_tokens": float(np.concatenate([r.tokens.prompts for r in reports]).mean()),
        **dict(zip(MEANS, means.tolist(), strict=True)),
    }
