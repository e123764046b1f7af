"""The training job with a reward that a random model can get: the share of its even tokens."""

import dataclasses
import math
import os
import signal
import sys

import numpy as np

from recallm_jax import policy_stages, train

reward_groups = policy_stages.reward_groups
# "PROCESS STAGE STEP": who gets SIGTERM, and when.
killed = os.environ.get("TEST_SIGTERM", "- - -").split()
# "STAGE STEP": when the loss of every process is no number.
spoilt = os.environ.get("TEST_NAN", "- -").split()


def share_of_even_tokens(rollout, *arguments, **options):
    """Return `reward_groups`' totals replaced by hand."""
    found = reward_groups(rollout, *arguments, **options)
    lengths = [[completion.num_tokens for completion in row] for row in rollout.completions]
    real = np.arange(rollout.tokens.shape[-1]) < np.array(lengths)[..., None]
    totals = (real & (rollout.tokens % 2 == 0)).sum(axis=-1) / real.sum(axis=-1)
    return dataclasses.replace(found, totals=totals.astype(np.float32))


def finite_as_told(metrics, stage, step, *others):
    """Send the signal, or spoil the loss, in the middle of a step."""
    if killed == [os.environ.get("JAX_PROCESS_ID"), stage.name, str(step)]:
        os.kill(os.getpid(), signal.SIGTERM)
    if spoilt == [stage.name, str(step)]:
        metrics = dict(metrics, loss=math.nan)
    return finite(metrics, stage, step, *others)


finite = policy_stages.finite
policy_stages.reward_groups = share_of_even_tokens
policy_stages.finite = finite_as_told
if __name__ == "__main__":
    sys.exit(train.main())
