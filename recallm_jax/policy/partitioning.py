"""Meshes, and the rules by which parameters and activations are split over their axes.

Mesh axes are named in this file only. Models name the axes of their arrays logically
(`models/transformer.py`); for each use a table of rules maps logical axes to mesh axes.

    data      batches are split; parameters are whole
    fsdp      batches are split, and so are parameters, which are gathered for use
    sequence  the tokens of a prompt are split, and the continuations of a group; parameters are
              split as over fsdp
    tensor    heads, MLP and vocabulary are split
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax.models.parameters import divided_sizes, layer_specs, top_specs
from recallm_jax.models.placement import Placement, Rules, partition_spec
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import Transformer
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
ACTIVATIONS: Rules = {
    "batch": ("data", "fsdp"),
    # Prompt tokens, and continuations of a prompt.
    "length": ("sequence",),
    "group": ("sequence",),
    # The same two between the halves of a layer, where no head or MLP axis is split.
    "residual_length": ("sequence", "tensor"),
    "residual_group": ("sequence", "tensor"),
    # Continuations while their next tokens are sampled.
    "sampled": ("tensor", "sequence"),
    # Embeddings on their way from the devices that hold their matrix: batch and width.
    "looked_up": ("data",),
    "looked_up_width": ("fsdp",),
}
TRAIN_RULES: Rules = {
    **ACTIVATIONS,
    "layers": (),
    "embed": ("fsdp", "sequence"),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}
# Decoding reads every weight for every token, so gathering weights at each step would cost more
# than keeping them. It multiplies single tokens, which are not split over `sequence`, so that the
# largest matrices can be.
ROLLOUT_RULES: Rules = {
    **TRAIN_RULES,
    "embed": (),
    "looked_up": ("data", "fsdp"),
    "looked_up_width": (),
    "vocab": ("tensor", "sequence"),
    "mlp": ("tensor", "sequence"),
}
# Between these two: split over `sequence` as for decoding, and not yet gathered over `fsdp`. In one
# step XLA would gather the whole matrix on every device, and then drop most of it.
HALFWAY_RULES: Rules = {**ROLLOUT_RULES, "embed": ("fsdp",)}
# Parameters while they multiply many tokens, which are split over `sequence`.
GATHERED_RULES: Rules = {**TRAIN_RULES, "embed": ()}


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    sequence: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Return a mesh with these sizes, over the first devices if it needs fewer than all.

    `tensor` varies fastest, so that its neighbours are the best connected devices; on TPU the axes
    follow the wires of the slice. Only `data` crosses from one slice to another, because along it
    only gradients are sent, once a micro-batch.

    Raises:
      UserError: a size is below one, there are too few devices, or `data` can't be split over the
        slices.
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
    chosen = available[:count]
    shape = tuple(sizes[name] for name in MESH_AXES)
    if chosen[0].platform != "tpu":
        return Mesh(np.asarray(chosen).reshape(shape), MESH_AXES)
    num_slices = len({getattr(device, "slice_index", 0) for device in chosen})
    if data % num_slices:
        raise UserError(
            f"mesh axis data = {data} cannot be split over {num_slices} slices; make it a "
            "multiple, since no other axis may cross from slice to slice"
        )
    try:
        if num_slices > 1:
            inside = (data // num_slices, *shape[1:])
            across = (num_slices, 1, 1, 1)
            laid = mesh_utils.create_hybrid_device_mesh(
                inside, across, chosen, allow_split_physical_axes=True
            )
        else:
            laid = mesh_utils.create_device_mesh(shape, chosen, allow_split_physical_axes=True)
    except (ValueError, NotImplementedError, AssertionError):
        raise UserError(
            f"mesh {sizes} does not fit the {count} chosen of {len(available)} TPU devices; "
            "use all devices of each slice, and sizes that divide its sides"
        ) from None
    return Mesh(laid, MESH_AXES)


def model_shardings(model: Transformer, mesh: Mesh, rules: Rules = TRAIN_RULES) -> Any:
    """Return a pytree of NamedSharding with the model's structure.

    Only the model's sizes are read, so abstract arrays serve as well.
    """
    return state_shardings(model, model.config, mesh, rules)


def state_shardings(state: Any, config: ModelConfig, mesh: Mesh, rules: Rules = TRAIN_RULES) -> Any:
    """Return the shardings of a pytree that mirrors the model, such as an optimiser's moments.

    A leaf is split like the parameter that its path names. A leaf whose path names none, or whose
    shape differs (a step count, a masked moment), is whole on every device.
    """
    specs = {**top_specs(config), **layer_specs(config)}

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        # The first name: the path goes on into the parameter's own field, `value`.
        name = next((name for name in map(key_name, path) if name in specs), None)
        if name is None or tuple(leaf.shape) != specs[name].shape:
            return replicated(mesh)
        spec = specs[name]
        sizes = divided_sizes(config, spec)
        return NamedSharding(mesh, partition_spec(spec.axes, sizes, mesh, rules))

    return jax.tree.map_with_path(sharding, state)


def key_name(key: Any) -> Any:
    """Return the name or the number in a key of a tree path."""
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return None


def batch_sharding(mesh: Mesh, rules: Rules = TRAIN_RULES) -> NamedSharding:
    """Return the sharding of arrays whose leading axis is the batch of prompts."""
    return NamedSharding(mesh, partition_spec(["batch"], [mesh.size], mesh, rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


# The platform of each attention that is a kernel of its own.
PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}


def check_attention(attention: str, mesh: Mesh) -> None:
    """Refuse the kernel of another platform (config.model.attention).

    Raises:
      UserError: the mesh has other devices than the kernel needs.
    """
    platform = mesh.devices.flat[0].platform
    if platform != PLATFORMS.get(attention, platform):
        raise UserError(
            f"config.model.attention = {attention!r} needs {PLATFORMS[attention].upper()}s, and "
            f"the devices here are {platform}; use 'auto'"
        )


def _best_attention(device: Any) -> str:
    if device.platform == "tpu":
        return "splash"
    # NVIDIA's say "9.0"; others have names. Before 8.0 cuDNN has no such kernel.
    capable = re.fullmatch(r"(\d+)\.\d+", getattr(device, "compute_capability", ""))
    return "cudnn" if device.platform == "gpu" and capable and int(capable[1]) >= 8 else "xla"


def placement(mesh: Mesh, rules: Rules = TRAIN_RULES, *, attention: str = "auto") -> Placement:
    """Return the placement by which a model keeps its arrays where the rules say.

    Args:
      attention: "xla", "splash", "cudnn", or "auto": the kernel of the mesh's devices, even of TPUs
        that are only described.
    """
    if attention == "auto":
        attention = _best_attention(mesh.devices.flat[0])
    return Placement(mesh, tuple(rules.items()), tuple(GATHERED_RULES.items()), attention)


def place_model(
    model: Transformer, mesh: Mesh, rules: Rules = TRAIN_RULES, *, attention: str = "auto"
) -> Transformer:
    """Put a model's parameters where the rules say, and have it keep its activations so.

    A model of abstract arrays stays abstract: its arrays are given their shardings.
    """
    shardings = model_shardings(model, mesh, rules)
    placed = abstract(model, shardings) if is_abstract(model) else processes.put(model, shardings)
    return placed.with_placement(placement(mesh, rules, attention=attention))


def abstract(tree: Any, shardings: Any) -> Any:
    """Return abstract arrays: the shapes and types of arrays, abstract or not, with shardings."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings,
    )


def is_abstract(tree: Any) -> bool:
    """Return whether a tree holds descriptions of arrays."""
    return any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree))


def check_config(config: ModelConfig, mesh: Mesh, rules: Rules = TRAIN_RULES) -> None:
    """Refuse a mesh that would split less than its rules promise.

    There may be fewer key and value heads than `tensor` devices (each then keeps them whole), and
    rollouts drop a mesh axis that does not divide; all other axes must divide.

    Raises:
      UserError: the mesh axes of a parameter's axis do not divide it.
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
