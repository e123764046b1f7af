"""PPO's value function: a linear read-out of hidden states, the policy's or a trunk's own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from decoding.rollout import Rollout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Critic:
    """v = hidden . kernel + bias; or, leaf for leaf, shapes or shardings of it.

    Attributes:
      kernel, bias: float32, [D] and [].
      trunk: a model of its own whose hidden states are read; None reads the policy's.
    """

    kernel: Any
    bias: Any
    trunk: Any = None


def init_critic(width: int, trunk: Any = None) -> Critic:
    """Return a critic that values everything at 0."""
    return Critic(jnp.zeros(width, jnp.float32), jnp.zeros((), jnp.float32), trunk)


def values(
    critic: Critic, hidden: Float[Array, "B G T D"], rollout: Rollout
) -> Float[Array, "B G T"]:
    """Return v_t of the state before each response token.

    Args:
      hidden: the policy's states that predict the tokens; not read by a critic with a trunk.
    """
    if critic.trunk is not None:
        prompts = rollout.prompts
        hidden = critic.trunk.score(prompts.tokens, prompts.lengths, rollout.tokens)
    return hidden.astype(jnp.float32) @ critic.kernel + critic.bias
