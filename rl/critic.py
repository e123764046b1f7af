"""PPO's value function: linear in the hidden states of the policy or of a trunk."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from decoding.rollout import Rollout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Critic:
    """v = hidden . kernel + bias. The leaves may also be the shapes or shardings of these arrays.

    Attributes:
      kernel, bias: float32, [D] and [].
      trunk: a separate model whose hidden states are read; None to read the policy's.
    """

    kernel: Any
    bias: Any
    trunk: Any = None


def init_critic(width: int, trunk: Any = None) -> Critic:
    """Return a critic whose values are all 0."""
    return Critic(jnp.zeros(width, jnp.float32), jnp.zeros((), jnp.float32), trunk)


def values(
    critic: Critic, hidden: Float[Array, "B G T D"], rollout: Rollout
) -> Float[Array, "B G T"]:
    """Return v_t of the state before each response token.

    Args:
      hidden: the policy's states that predict the tokens; a critic with a trunk ignores them.
    """
    if critic.trunk is not None:
        prompts = rollout.prompts
        hidden = critic.trunk.score(prompts.tokens, prompts.lengths, rollout.tokens)
    return hidden.astype(jnp.float32) @ critic.kernel + critic.bias
