"""Meshes, and where the axes of parameters and activations lie on them.

The only home of mesh axis names. Parameters name their axes logically (`models/transformer.py`);
a table of rules a use maps logical axes to mesh axes.

    data      batches are split; parameters are whole
    fsdp      batches are split, and so are parameters, gathered where they are used
    sequence  tokens of a prompt are split
    tensor    heads, MLP and vocabulary are split
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax import processes
from recallm_jax.errors import UserError
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import Transformer, layer_specs, top_specs

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
# Logical axis to mesh axes; every logical axis that a parameter or a batch may have stands here.
Rules = Mapping[str, tuple[str, ...]]
TRAIN_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "layers": (),
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}
# Decoding reads every weight for every token, so gathering them each step would cost more than
# keeping them: parameters are split over `tensor` alone.
ROLLOUT_RULES: Rules = {**TRAIN_RULES, "embed": ()}


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    sequence: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Return a mesh with these sizes, over the first devices where fewer than all are asked for.

    `tensor` varies fastest, so that its neighbours are the best connected devices.

    Raises:
      UserError: a size below one, or more devices asked for than there are.
    """
    sizes = {"data": data, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"mesh axis {name} = {size}; it must be at least 1")
    count = math.prod(sizes.values())
    available = jax.devices() if devices is None else list(devices)
    if count > len(available):
        raise UserError(
            f"mesh {sizes} needs {count} devices, but there are {len(available)}; "
            "lower an axis, or on CPU set XLA_FLAGS=--xla_force_host_platform_device_count "
            "(and NPROC to several times as many: XLA needs a thread for each waiting collective)"
        )
    shape = tuple(sizes[name] for name in MESH_AXES)
    return Mesh(np.asarray(available[:count]).reshape(shape), MESH_AXES)


def partition_spec(
    axes: Sequence[str | None],
    sizes: Sequence[int],
    mesh: Mesh,
    rules: Rules,
) -> PartitionSpec:
    """Map the logical axes of one array to mesh axes.

    A mesh axis that does not divide the array's is dropped for that array, which is then whole
    along it: key heads fewer than `tensor` devices, for one. `check_config` refuses the sizes for
    which this would waste a mesh axis.

    Args:
      axes: logical name of each array axis; None is never split.
      sizes: what must be divided: for axes of heads their number, so that none is cut in two.

    Raises:
      UserError: a name without a rule, or two axes of the array on one mesh axis.
    """
    entries: list = []
    used: dict[str, str | None] = {}
    for name, size in zip(axes, sizes, strict=True):
        chosen, parts = [], 1
        for mesh_axis in _mesh_axes(name, rules):
            if mesh_axis in used:
                raise UserError(
                    f"axes {used[mesh_axis]!r} and {name!r} of one array both lie on mesh axis "
                    f"{mesh_axis!r}; change the rules"
                )
            used[mesh_axis] = name
            if size % (parts * mesh.shape[mesh_axis]) == 0:
                parts *= mesh.shape[mesh_axis]
                chosen.append(mesh_axis)
        entries.append(chosen[0] if len(chosen) == 1 else tuple(chosen) or None)
    return PartitionSpec(*entries)


def _mesh_axes(name: str | None, rules: Rules) -> tuple[str, ...]:
    if name is None:
        return ()
    if name not in rules:
        raise UserError(f"logical axis {name!r} has no rule; add one of {MESH_AXES} or () for it")
    return rules[name]


def model_shardings(model: Transformer, mesh: Mesh, rules: Rules = TRAIN_RULES) -> Any:
    """Return a pytree of NamedSharding with the model's structure.

    Only the model's sizes are read, so abstract arrays serve as well.
    """
    return state_shardings(model, model.config, mesh, rules)


def state_shardings(state: Any, config: ModelConfig, mesh: Mesh, rules: Rules = TRAIN_RULES) -> Any:
    """Return the shardings of a pytree that mirrors the model, such as an optimiser's moments.

    A leaf lies as the parameter that its path names; a leaf that is no parameter's, or has not its
    shape (a step count, a masked moment), is whole on every device.
    """
    specs = {**top_specs(config), **layer_specs(config)}
    heads = {"heads": config.num_heads, "kv_heads": config.num_kv_heads}

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        # The first name: the path goes on into the parameter's own field, `value`.
        name = next((name for name in map(_key_name, path) if name in specs), None)
        if name is None or tuple(leaf.shape) != specs[name].shape:
            return replicated(mesh)
        spec = specs[name]
        sizes = [heads.get(axis, n) for axis, n in zip(spec.axes, spec.shape, strict=True)]
        return NamedSharding(mesh, partition_spec(spec.axes, sizes, mesh, rules))

    return jax.tree.map_with_path(sharding, state)


def _key_name(key: Any) -> Any:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return None


def batch_sharding(mesh: Mesh, rules: Rules = TRAIN_RULES) -> NamedSharding:
    """Return the sharding of arrays whose leading axis is the batch of prompts."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place_model(model: Transformer, mesh: Mesh, rules: Rules = TRAIN_RULES) -> Transformer:
    """Put a model's parameters where the rules say, and keep its activations to their prompts."""
    placed = processes.put(model, model_shardings(model, mesh, rules))
    placed.activation_sharding = batch_sharding(mesh, rules)
    return placed


@dataclasses.dataclass(frozen=True)
class MeshSizes:
    """How many prompts a batch must hold a multiple of, and tokens a prompt."""

    batch: int
    length: int


def mesh_sizes(mesh: Mesh, rules: Rules = TRAIN_RULES) -> MeshSizes:
    """Return the numbers that a batch's sizes must be multiples of."""

    def parts(name: str) -> int:
        return math.prod(mesh.shape[axis] for axis in rules[name])

    return MeshSizes(batch=parts("batch"), length=parts("length"))


def check_config(config: ModelConfig, mesh: Mesh, rules: Rules = TRAIN_RULES) -> None:
    """Refuse a mesh that would split less than its rules promise.

    Key and value heads may be fewer than `tensor` devices (they are then kept whole on each);
    everything else must divide.

    Raises:
      UserError: a parameter axis that its mesh axes do not divide.
    """
    sizes = {
        "embed": ("width", config.width),
        "vocab": ("vocab_rows", config.vocab_rows),
        "heads": ("num_heads", config.num_heads),
        "mlp": ("mlp_dim", config.mlp_dim),
    }
    for name, (field, size) in sizes.items():
        parts = math.prod(mesh.shape[axis] for axis in rules[name])
        if size % parts:
            raise UserError(
                f"{field} = {size} cannot be split into {parts} parts over mesh axes "
                f"{rules[name]}; choose sizes of these axes that divide it"
            )
