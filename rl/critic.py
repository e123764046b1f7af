"""PPO's value function: linear in the hidden states of the policy or of a trunk."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from decoding.packing import Layout
from decoding.rollout import Rollout
from decoding.span_scores import hidden_states


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

    def trained(self) -> "Critic":
        """Return the critic with only those arrays of its trunk that updates change."""
        return self if self.trunk is None else dataclasses.replace(self, trunk=self.trunk.trained())

    def with_trained(self, trained: "Critic") -> "Critic":
        """Return this critic with other values of what `trained` returns."""
        if self.trunk is None:
            return trained
        return dataclasses.replace(trained, trunk=self.trunk.with_trained(trained.trunk))


def init_critic(width: int, trunk: Any = None) -> Critic:
    """Return a critic whose values are all 0."""
    return Critic(jnp.zeros(width, jnp.float32), jnp.zeros((), jnp.float32), trunk)


def values(
    critic: Critic, hidden: Float[Array, "B R P D"], rollout: Rollout, layout: Layout
) -> Float[Array, "B G T"]:
    """Return v_t of the state before each response token, 0 after a response's end.

    Args:
      hidden: the policy's states that predict the token at each position; a critic with a trunk
        ignores them.
    """
    if critic.trunk is not None:
        hidden = hidden_states(critic.trunk, rollout, layout)
    return layout.of_responses(hidden.astype(jnp.float32) @ critic.kernel + critic.bias)
