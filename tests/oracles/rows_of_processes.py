"""A process of several that hold arrays together; one of them fails in the end.

Every check is against NumPy arrays that each process makes whole.
"""

import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax import peers, processes
from recallm_jax.errors import UserError, run_job

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
    expected = jax.random.key_data(jax.random.split(jax.random.key(7), 8))
    np.testing.assert_array_equal(processes.fetch(jax.random.key_data(keys)), expected)

    moved = processes.put_all({"a": placed, "b": WHOLE[::-1]}, whole)
    assert moved["a"].is_fully_replicated
    np.testing.assert_array_equal(processes.fetch(moved["a"] - moved["b"]), WHOLE - WHOLE[::-1])
    assert processes.mesh_of({"x": WHOLE, "y": placed}) == mesh

    assert processes.any_of(number == 1, mesh) and not processes.any_of(False, mesh)
    assert processes.texts_of_all([], mesh) == []
    # Of two lengths; what both say is said once.
    own = ["only one", *WORDS] if number else WORDS
    assert processes.texts_of_all(own, mesh) == [*WORDS, "only one"]
    assert processes.text_of_leader(f"from {number}", mesh) == "from 0"
    try:
        processes.check_mesh(Mesh(devices[:2], ("rows",)))
        processes.check_mesh(Mesh(devices[[0, 2]], ("rows",)))
    except UserError as error:
        raise AssertionError("each has a device here, or the mesh is of one process") from error
    print("checked", flush=True)

    if number == 1:
        raise UserError("config.seed = -1 is\nno seed")
    # The other one never comes.
    processes.meet(mesh)


def job(argv: list[str]) -> None:
    with peers.joined(True):
        check()


sys.exit(run_job(job, []))
