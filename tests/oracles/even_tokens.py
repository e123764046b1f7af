"""A reward that a random model can get, and a step can raise: the share of even tokens."""

import dataclasses

import numpy as np

from rl.rollout_text import GroupRewards, RolloutText


def rewarded(rollout: RolloutText, found: GroupRewards) -> GroupRewards:
    """Return the rewards with each total replaced by the share of even tokens in its response."""
    lengths = [[completion.num_tokens for completion in row] for row in rollout.completions]
    real = np.arange(rollout.tokens.shape[-1]) < np.array(lengths)[..., None]
    totals = (real & (rollout.tokens % 2 == 0)).sum(axis=-1) / real.sum(axis=-1)
    return dataclasses.replace(found, totals=totals.astype(np.float32))
