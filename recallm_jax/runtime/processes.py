"""Arrays over several processes: which rows each has, and how all get the same values.

Only this file counts processes. All processes run the same program; each makes the rows of a batch
that its own devices hold, and reads those. Functions that communicate are called by all processes,
in the same order. In a single process they do the same without communicating.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Int

from recallm_jax.runtime.errors import UserError

# The part of a global array at an index, from this process's shards.
Part = Callable[[np.ndarray, tuple[slice, ...]], np.ndarray]


def several(mesh: Mesh | None) -> bool:
    """Return whether a mesh has devices of other processes; None stands for no mesh."""
    return mesh is not None and mesh.is_multi_process


def mesh_of(tree: Any) -> Mesh | None:
    """Return the mesh that arrays lie on, or None."""
    for x in jax.tree.leaves(tree):
        sharding = getattr(x, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    return None


def meet(mesh: Mesh | None) -> None:
    """Wait for the other processes of a mesh."""
    any_of(False, mesh)


def leads(mesh: Mesh | None) -> bool:
    """Return whether this process of a mesh is the one that writes files and uses the console."""
    return not several(mesh) or jax.process_index() == 0


def check_mesh(mesh: Mesh) -> None:
    """Refuse a mesh that leaves a process without a device.

    Raises:
      UserError: names the numbers.
    """
    holding = {device.process_index for device in mesh.devices.flat}
    if holding != {jax.process_index()} and len(holding) < jax.process_count():
        raise UserError(
            f"config.mesh has {mesh.size} devices, of {len(holding)} of the {jax.process_count()} "
            f"processes; use all {jax.device_count()} devices"
        )


def number_and_count() -> tuple[int, int]:
    """Return the number of this process, counted from 0, and the number of processes."""
    return jax.process_index(), jax.process_count()


def each_has_room(size: int) -> bool:
    """Return whether there are several processes, each with devices for a mesh of that size."""
    return jax.process_count() > 1 and size <= jax.local_device_count()


def put(tree: Any, shardings: Any) -> Any:
    """Place arrays that every process holds whole, or that are already placed.

    Args:
      shardings: one for each array, in a pytree like theirs.
    """
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)
    return jax.tree.map(_put, tree, shardings)


def put_all(tree: Any, sharding: Sharding) -> Any:
    """Place arrays as `put` does, all on one sharding."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: _put(x, sharding), tree)


def _put(x: Any, sharding: Sharding) -> Any:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x if x.sharding == sharding else _mover(sharding)(x)
    return _made(x, x.shape, sharding, lambda values, index: values[index])


def _made(x: Any, shape: tuple[int, ...], sharding: Sharding, part: Part) -> jax.Array:
    """Return a global array from the parts that this process makes; keys as their integers."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(x)
        made = _made(data, (*shape, data.shape[-1]), sharding, part)
        return jax.random.wrap_key_data(made, impl=jax.random.key_impl(x))
    values = np.asarray(x)
    return jax.make_array_from_callback(shape, sharding, functools.partial(part, values))


# Programs that only move data, one for each sharding; there are few.
@functools.lru_cache(maxsize=16)
def _mover(sharding: Sharding):
    return jax.jit(lambda x: x, out_shardings=sharding)


def own_rows(count: int, sharding: Sharding) -> Int[np.ndarray, " rows"]:
    """Return the rows of a batch that this process's devices hold, in order."""
    held = sharding.addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[index] for index in held]))


def put_rows(tree: Any, count: int, sharding: Sharding) -> Any:
    """Place a batch of `count` rows; each process gives its own rows."""
    if sharding.is_fully_addressable:
        return put_all(tree, sharding)
    rows = own_rows(count, sharding)

    def part(values: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        wanted = np.arange(count)[index[0]]
        place: tuple[np.ndarray | slice, ...] = (np.searchsorted(rows, wanted), *index[1:])
        return values[place]

    return jax.tree.map(lambda x: _made(x, (count, *x.shape[1:]), sharding, part), tree)


def fetch_rows(tree: Any, sharding: Sharding) -> Any:
    """Return this process's rows of arrays with the same number of rows, on the host."""
    if sharding.is_fully_addressable:
        return jax.device_get(tree)

    def own(x: jax.Array) -> np.ndarray:
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(own, _mover(sharding)(tree))


def gather_rows(values: np.ndarray, count: int, sharding: Sharding) -> np.ndarray:
    """Gather a whole batch of `count` rows, the same in every process; each gives its own rows.

    If several processes have a row, the first one's counts: a number that a host measures, such as
    a reward with a time limit, may differ from host to host.
    """
    if sharding.is_fully_addressable:
        return values
    rows = own_rows(count, sharding)
    held, whole = np.zeros(count, bool), np.zeros((count, *values.shape[1:]), values.dtype)
    held[rows], whole[rows] = True, values
    held, whole = multihost_utils.process_allgather((held, whole))
    return whole[held.argmax(axis=0), np.arange(count)]


def fetch(tree: Any) -> Any:
    """Return arrays whole, on the host of every process."""

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        # An array on devices of several processes lies on a mesh.
        sharding = cast(NamedSharding, x.sharding)
        return _mover(NamedSharding(sharding.mesh, PartitionSpec()))(x)

    return jax.device_get(jax.tree.map(whole, tree))


def any_of(flag: bool, mesh: Mesh | None) -> bool:
    """Return whether the flag is set in any process of the mesh."""
    if not several(mesh):
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def texts_of_all(texts: Sequence[str], mesh: Mesh | None) -> list[str]:
    """Return the texts of all processes, in their order, each once."""
    if not several(mesh):
        return list(texts)
    said = np.frombuffer(json.dumps(list(texts)).encode() if texts else b"", np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(said), np.int32))
    if not sizes.any():
        return []
    # Few sizes: a program is compiled for each, in all processes.
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: len(said)] = said
    gathered = multihost_utils.process_allgather(padded)
    lists = [
        json.loads(row[:size].tobytes() or b"[]") for row, size in zip(gathered, sizes, strict=True)
    ]
    return list(dict.fromkeys(text for texts in lists for text in texts))


def text_of_leader(text: str, mesh: Mesh | None) -> str:
    """Return the text of the leading process, in every process."""
    if not several(mesh):
        return text
    found = texts_of_all([text] if leads(mesh) else [], mesh)
    return found[0]
