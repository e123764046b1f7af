"""A reward that a random model can get, and a step can raise: the share of even tokens."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from recallm_jax.training import rollouts
from rl.rollout_text import GroupRewards, RolloutText

RewardGroups = Callable[..., GroupRewards]


def rewarding(reward_groups: RewardGroups) -> RewardGroups:
    """Return `reward_groups` with each total replaced by the share of even tokens."""

    def changed(rollout: RolloutText, *arguments, **options) -> GroupRewards:
        found = reward_groups(rollout, *arguments, **options)
        lengths = [[completion.num_tokens for completion in row] for row in rollout.completions]
        real = np.arange(rollout.tokens.shape[-1]) < np.array(lengths)[..., None]
        totals = (real & (rollout.tokens % 2 == 0)).sum(axis=-1) / real.sum(axis=-1)
        return dataclasses.replace(found, totals=totals.astype(np.float32))

    return changed


@contextlib.contextmanager
def rewarded() -> Iterator[None]:
    """Reward what a random model can do: GRPO learns nothing from responses that all get 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "reward_groups", rewarding(rollouts.reward_groups))
        yield
