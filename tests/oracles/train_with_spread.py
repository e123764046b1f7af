"""The training job with a reward that a random model can get: the share of its even tokens."""

import math
import os
import signal
import sys

from recallm_jax import train
from recallm_jax.training import policy_gradient, rollouts
from tests.oracles import even_tokens

# "PROCESS STAGE STEP": the process that gets SIGTERM, and when.
killed = os.environ.get("TEST_SIGTERM", "- - -").split()
# "STAGE STEP": when the loss of every process is NaN.
spoilt = os.environ.get("TEST_NAN", "- -").split()


def finite_as_told(metrics, stage, step, *others):
    """Send the signal, or spoil the loss, in the middle of a step."""
    if killed == [os.environ.get("JAX_PROCESS_ID"), stage.name, str(step)]:
        os.kill(os.getpid(), signal.SIGTERM)
    if spoilt == [stage.name, str(step)]:
        metrics = dict(metrics, loss=math.nan)
    return finite(metrics, stage, step, *others)


finite = policy_gradient.finite
rollouts.reward_groups = even_tokens.rewarding(rollouts.reward_groups)
policy_gradient.finite = finite_as_told
if __name__ == "__main__":
    sys.exit(train.main())
