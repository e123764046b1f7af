"""The speed of a step: seconds of its parts, tokens a second, padding, use of the chips.

Tokens are real ones, padding left out: those of each prompt, once for all responses to it, and
those of the responses, stop tokens included.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from decoding.rollout import Rollout
from recallm_jax.planning.chips import peak_flops
from recallm_jax.planning.flops import group_flops, hidden_flops, unembed_flops
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.runtime.timing import COMPILE, SECONDS, STEP, TOKENS_PER_SECOND, UTILISATION
from rl.packing import Packing

DATA, ROLLOUT, REWARD, SCORES, UPDATE = "data", "rollout", "reward", "scores", "update"
# The parts of a step, in order.
PARTS = (DATA, ROLLOUT, REWARD, SCORES, UPDATE)


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """The tokens of a batch of groups, the same in every process.

    Attributes:
      prompts: the tokens of each prompt.
      responses: the tokens of each response.
    """

    prompts: Int[np.ndarray, " B"]
    responses: Int[np.ndarray, "B G"]

    @property
    def real(self) -> int:
        """The number of tokens."""
        return int(self.prompts.sum() + self.responses.sum())


def count_tokens(rollout: Rollout) -> TokenCounts:
    """Count the tokens of a rollout; all processes call it together."""
    prompts, responses = processes.fetch((rollout.prompts.lengths, rollout.lengths))
    return TokenCounts(np.asarray(prompts), np.asarray(responses))


def padding_of(rollout: Rollout, packing: Packing) -> float:
    """Return the share of the positions of an update that hold no token; all processes call it."""
    positions = rollout.prompts.tokens.size + packing.num_positions
    return 1 - count_tokens(rollout).real / positions


def seconds_metrics(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of the seconds of a step and of its parts, in order."""
    return {
        f"{SECONDS}{part}": seconds[part] for part in (STEP, *PARTS, COMPILE) if part in seconds
    }


def rollout_speed(
    context: Context, draws: Sequence[TokenCounts], seconds: float
) -> dict[str, float]:
    """Return the metrics of the speed of a step's rollouts.

    Args:
      draws: the tokens of each sampled batch, kept or not.
    """
    sizes = context.policy.config
    flops = sum(
        group_flops(sizes, drawn.prompts, drawn.responses)
        # The first token of a response is drawn from the logits of the prompt's last token.
        + len(drawn.prompts) * unembed_flops(sizes)
        for drawn in draws
    )
    return _speed(context, ROLLOUT, sum(drawn.real for drawn in draws), flops, seconds)


def update_speed(
    context: Context,
    counts: TokenCounts,
    seconds: float,
    *,
    epochs: int = 1,
    separate_critic: bool = False,
) -> dict[str, float]:
    """Return the metrics of the speed of a step's updates.

    Args:
      epochs: how often each token of the batch is learned from.
      separate_critic: whether the critic is a second model.
    """
    sizes = context.policy.config
    forward = group_flops(sizes, counts.prompts, counts.responses)
    if separate_critic:
        forward += hidden_flops(sizes, counts.prompts, counts.responses)
    # The backward pass takes twice the operations of the forward pass.
    return _speed(context, UPDATE, epochs * counts.real, 3 * epochs * forward, seconds)


def _speed(
    context: Context, part: str, tokens: int, flops: float, seconds: float
) -> dict[str, float]:
    """Return tokens a second and, where the chips' peak is known, model-FLOPs utilisation."""
    found = {f"{TOKENS_PER_SECOND}{part}": tokens / seconds}
    devices = context.mesh.devices
    peak = peak_flops(devices.flat[0].device_kind)
    if peak is not None:
        found[f"{UTILISATION}{part}"] = flops / seconds / (peak * devices.size)
    return found
