"""A process of several that hold arrays together; one of them fails in the end.

Every check is against NumPy arrays that each process makes whole.
"""

import pathlib
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax.policy import checkpoint
from recallm_jax.runtime import peers, processes
from recallm_jax.runtime.errors import UserError, run_job

# Two devices a process, and the devices of both in turn: rows of a process are not all together.
ORDER = (0, 2, 1, 3)
WHOLE = np.arange(24.0, dtype=np.float32).reshape(8, 3)
WORDS = ["", "é\n", "both"]


def check() -> None:
    number, count = processes.number_and_count()
    assert (count, jax.local_device_count()) == (2, 2)
    devices = np.array(jax.devices())[list(ORDER)]
    mesh = Mesh(devices.reshape(4), ("rows",))
    assert processes.several(mesh) and processes.leads(mesh) == (number == 0)
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rows",), ()))

    rows = processes.own_rows(8, split)
    assert rows.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]][number]
    assert processes.own_rows(8, whole).tolist() == list(range(8))
    placed, keys = processes.put_rows(
        (WHOLE[rows], jax.random.split(jax.random.key(7), 8)[rows]), 8, split
    )
    assert placed.shape == (8, 3) and not placed.is_fully_addressable
    np.testing.assert_array_equal(processes.fetch(placed), WHOLE)
    np.testing.assert_array_equal(processes.fetch_rows(2 * placed, split), 2 * WHOLE[rows])
    np.testing.assert_array_equal(processes.fetch_rows(placed, whole), WHOLE)
    np.testing.assert_array_equal(processes.gather_rows(WHOLE[rows], 8, split), WHOLE)
    # An array that both hold is the first one's, whatever the other has.
    np.testing.assert_array_equal(processes.gather_rows(WHOLE + number, 8, whole), WHOLE)
    expected = jax.random.key_data(jax.random.split(jax.random.key(7), 8))
    np.testing.assert_array_equal(processes.fetch(jax.random.key_data(keys)), expected)

    moved = processes.put_all({"a": placed, "b": WHOLE[::-1]}, whole)
    assert moved["a"].is_fully_replicated
    np.testing.assert_array_equal(processes.fetch(moved["a"] - moved["b"]), WHOLE - WHOLE[::-1])
    assert processes.mesh_of({"x": WHOLE, "y": placed}) == mesh

    assert processes.any_of(number == 1, mesh) and not processes.any_of(False, mesh)
    assert processes.texts_of_all([], mesh) == []
    # The lists have two lengths; a text of both appears once.
    own = ["only one", *WORDS] if number else WORDS
    assert processes.texts_of_all(own, mesh) == [*WORDS, "only one"]
    assert processes.text_of_leader(f"from {number}", mesh) == "from 0"
    processes.check_mesh(Mesh(devices[:2], ("rows",)))
    processes.check_mesh(Mesh(np.array(jax.local_devices()), ("rows",)))
    try:
        processes.check_mesh(Mesh(np.array(jax.devices()[:2]), ("rows",)))
        assert number == 0
    except UserError as error:
        assert number == 1
        said = "config.mesh has 2 devices, of 1 of the 2 processes; use all 4 devices"
        assert str(error) == said, error
    check_checkpoints(mesh, placed, number, pathlib.Path(sys.argv[1]))
    print("checked", flush=True)

    if number == 1:
        raise UserError("config.seed = -1 is\nno seed")
    # The other one never comes.
    processes.meet(mesh)


def check_checkpoints(mesh: Mesh, placed: jax.Array, number: int, folder: pathlib.Path) -> None:
    """Save two checkpoints together; all ignore one that a single process can't read."""
    state = {"w": placed, "step": jax.device_put(np.int32(3), NamedSharding(mesh, PartitionSpec()))}
    with checkpoint.open_manager(folder, keep=2) as manager:
        for step in (1, 2):
            doubled = jax.tree.map(lambda x, by=step: by * x, state)
            checkpoint.save(manager, step, doubled, {"step": step})
        checkpoint.finish(manager)
        read, metadata = checkpoint.restore_latest(manager, state)
        assert metadata == {"step": 2} and read["w"].sharding == placed.sharding
        np.testing.assert_array_equal(processes.fetch(read["w"]), 2 * WHOLE)
        np.testing.assert_array_equal(processes.fetch(read["step"]), 6)
        if number == 1:
            checkpoint._read = unreadable
        read, metadata = checkpoint.restore_latest(manager, state, set_aside=True)
        assert metadata == {"step": 1}
        np.testing.assert_array_equal(processes.fetch(read["w"]), WHOLE)
        checkpoint.save(manager, 2, state, {"step": 2})
        checkpoint.finish(manager)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["1", "2", "2.damaged"], names


def unreadable(manager, step, flat, read=checkpoint._read):
    """Find damage in the newest checkpoint."""
    if step == 2:
        raise checkpoint.Damaged("a bad sector")
    return read(manager, step, flat)


def job(argv: list[str]) -> None:
    with peers.joined(True):
        check()


sys.exit(run_job(job, []))
