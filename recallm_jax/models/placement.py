"""Logical names of array axes, and the mesh axes that they are split over.

`policy/partitioning.py` has the names of mesh axes and the tables of rules.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from recallm_jax.runtime.errors import UserError

# The mesh axes of each logical axis.
Rules = Mapping[str, tuple[str, ...]]


def partition_spec(
    axes: Sequence[str | None],
    sizes: Sequence[int],
    mesh: Mesh,
    rules: Rules,
) -> PartitionSpec:
    """Map the logical axes of one array to mesh axes.

    A mesh axis that does not divide an array axis is dropped for that array, which is then whole
    along it, for example if there are fewer key heads than `tensor` devices.
    `partitioning.check_config` refuses sizes for which this would waste a mesh axis. Mesh axes of
    one device, and axes at the end that are whole, are left out, as JAX leaves them out for what a
    program returns: an array that is told otherwise would make the next call compile again.

    Args:
      axes: the logical name of each array axis; None is never split.
      sizes: the number of units of each axis that can't be cut: of heads if it holds heads.

    Raises:
      UserError: a name has no rule, or two axes of the array are on one mesh axis.
    """
    entries: list = []
    used: dict[str, str | None] = {}
    for name, size in zip(axes, sizes, strict=True):
        chosen, parts = [], 1
        for mesh_axis in _mesh_axes(name, mesh, rules):
            if mesh_axis in used:
                raise UserError(
                    f"axes {used[mesh_axis]!r} and {name!r} of one array both lie on mesh axis "
                    f"{mesh_axis!r}; change the rules"
                )
            used[mesh_axis] = name
            count = mesh.shape[mesh_axis]
            if count > 1 and size % (parts * count) == 0:
                parts *= count
                chosen.append(mesh_axis)
        entries.append(chosen[0] if len(chosen) == 1 else tuple(chosen) or None)
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _mesh_axes(name: str | None, mesh: Mesh, rules: Rules) -> tuple[str, ...]:
    if name is None:
        return ()
    if name not in rules:
        raise UserError(
            f"logical axis {name!r} has no rule; add one of {mesh.axis_names} or () for it"
        )
    return rules[name]


@dataclasses.dataclass(frozen=True)
class Placement:
    """The layout of a model's arrays on a mesh; static, so that programs are compiled for it.

    Attributes:
      stored: the rules, as pairs, for stored parameters and for activations.
      used: the rules for parameters while many tokens are multiplied by them.
      attention: how many tokens attend: by plain XLA ("xla"), by JAX's splash attention ("splash"),
        or prompts by cuDNN and responses by plain XLA ("cudnn").
    """

    mesh: Mesh
    stored: tuple[tuple[str, tuple[str, ...]], ...]
    used: tuple[tuple[str, tuple[str, ...]], ...]
    attention: str = "xla"

    def spec(self, axes: Sequence[str | None], sizes: Sequence[int]) -> PartitionSpec:
        """Return the mesh axes of each axis of an array; see `partition_spec`."""
        return partition_spec(axes, sizes, self.mesh, dict(self.stored))

    def parts(self, axis: str, size: int) -> tuple[tuple[str, ...], int]:
        """Return the mesh axes that split an array axis, and the number of parts."""
        entries = self.spec([axis], [size])
        entry = entries[0] if entries else ()
        axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
        return axes, math.prod(self.mesh.shape[name] for name in axes)

    def whole_parts(self, axis: str) -> int:
        """Return the number of parts of an array axis that all its mesh axes divide."""
        return math.prod(self.mesh.shape[name] for name in dict(self.stored)[axis])

    @property
    def splash(self) -> bool:
        """Whether tokens attend by splash attention."""
        return self.attention == "splash"

    @property
    def on_tpu(self) -> bool:
        """Whether the devices are TPUs, or descriptions of TPUs."""
        return self.mesh.devices.flat[0].platform == "tpu"

    def constrain(self, x: Array, axes: Sequence[str | None]) -> Array:
        """Constrain an array, and its gradient, to the stored layout, inside a program."""
        sharding = NamedSharding(self.mesh, self.spec(axes, x.shape))
        return lax.with_sharding_constraint(x, sharding)

    def constrain_used(self, x: Array, axes: Sequence[str | None]) -> Array:
        """Constrain an array to the layout of parameters in use, inside a program."""
        spec = partition_spec(axes, x.shape, self.mesh, dict(self.used))
        return lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def gather(self, x: Array, axes: Sequence[str | None], sizes: Sequence[int]) -> Array:
        """Lay a parameter out for use, and its gradient as the parameter is stored."""
        stored = NamedSharding(self.mesh, self.spec(axes, sizes))
        used = NamedSharding(self.mesh, partition_spec(axes, sizes, self.mesh, dict(self.used)))
        return _gather(x, used, stored)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: Array, used: NamedSharding, stored: NamedSharding) -> Array:
    del stored
    return lax.with_sharding_constraint(x, used)


def _gather_forward(x, used, stored):
    return _gather(x, used, stored), None


def _gather_backward(used, stored, _, gradient):
    # Without this every device would hold the gradient of the whole parameter.
    del used
    return (lax.with_sharding_constraint(gradient, stored),)


_gather.defvjp(_gather_forward, _gather_backward)
