"""The layout of a policy while it decodes: ROLLOUT_RULES, in the compute dtype."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from recallm_jax.models.placement import Placement
from recallm_jax.models.transformer import Transformer
from recallm_jax.policy.partitioning import (
    HALFWAY_RULES,
    ROLLOUT_RULES,
    is_abstract,
    key_name,
    model_shardings,
)


def for_rollout(policy: Any) -> Any:
    """Return the policy as decoding reads it.

    One program reshards it, so that no step of decoding gathers a parameter. Arrays that lie so
    already are shared with the given policy; any other is held twice until the caller drops one of
    the two. A policy without a placement, such as a toy, is returned as it is; one of abstract
    arrays stays abstract.
    """
    placement: Placement | None = getattr(policy, "placement", None)
    if placement is None:
        return policy
    moves = rollout_moves(policy)
    if is_abstract(policy):
        moved = [layout.of(x) for x, layout in zip(moves.arrays, moves.layouts, strict=True)]
    else:
        moved = reshard(moves.arrays, layouts=moves.layouts) if moves.arrays else []
    leaves, structure = jax.tree.flatten(policy)
    for place, x in zip(moves.places, moved, strict=True):
        leaves[place] = x
    placement = dataclasses.replace(placement, stored=tuple(ROLLOUT_RULES.items()))
    return jax.tree.unflatten(structure, leaves).with_placement(placement)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The type of a parameter while decoding, and the shardings on its way there."""

    dtype: Any
    halfway: NamedSharding
    sharding: NamedSharding

    def is_of(self, x: Any) -> bool:
        """Return whether an array, or a description of one, lies so."""
        return x.dtype == self.dtype and x.sharding.is_equivalent_to(self.sharding, len(x.shape))

    def of(self, x: Any) -> jax.ShapeDtypeStruct:
        """Describe the array in this layout."""
        return jax.ShapeDtypeStruct(x.shape, self.dtype, sharding=self.sharding)


@dataclasses.dataclass(frozen=True)
class RolloutMoves:
    """The arrays of a policy that do not lie as decoding reads them.

    Attributes:
      places: their numbers among the policy's leaves.
      layouts: those that they get.
    """

    places: tuple[int, ...]
    arrays: tuple[Any, ...]
    layouts: tuple[Layout, ...]


def rollout_moves(policy: Transformer) -> RolloutMoves:
    """Return what `for_rollout` has to move."""
    assert policy.placement is not None
    mesh = policy.placement.mesh
    found = []
    for place, ((path, x), halfway, sharding) in enumerate(
        zip(
            jax.tree.leaves_with_path(policy),
            jax.tree.leaves(model_shardings(policy, mesh, HALFWAY_RULES)),
            jax.tree.leaves(model_shardings(policy, mesh, ROLLOUT_RULES)),
            strict=True,
        )
    ):
        # Norms are computed in float32, whatever the type of the products.
        norm = any(str(key_name(key)).endswith("norm") for key in path)
        layout = Layout(x.dtype if norm else jnp.dtype(policy.config.dtype), halfway, sharding)
        if not layout.is_of(x):
            found.append((place, x, layout))
    places, arrays, layouts = zip(*found, strict=True) if found else ((), (), ())
    return RolloutMoves(places, arrays, layouts)


@functools.partial(jax.jit, static_argnames="layouts")
def reshard(arrays: tuple[jax.Array, ...], *, layouts: tuple[Layout, ...]) -> list[jax.Array]:
    """Return arrays in other layouts."""
    moved = []
    for x, layout in zip(arrays, layouts, strict=True):
        x = x.astype(layout.dtype)
        for sharding in (layout.halfway, layout.sharding):
            x = jax.lax.with_sharding_constraint(x, sharding)
        moved.append(x)
    return moved
