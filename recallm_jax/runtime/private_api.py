"""The private API of libraries that this project uses; each function says why.

All other files use public API only; `tests/test_imports.py` checks it.
"""

from typing import Any


def coordinator_client() -> Any | None:
    """Return JAX's connection to the coordinator; None if no processes are joined.

    JAX has no public way to the coordinator's key-value store and barriers.
    """
    from jax._src import distributed

    return distributed.global_state.client


def process_number() -> int:
    """Return this process's number among the joined ones.

    `jax.process_index`, the public way, waits for the devices of all processes, one of which may
    have failed.
    """
    from jax._src import distributed

    return distributed.global_state.process_id
