"""The private API of libraries that this project uses; each function says why.

Everything else goes by public API, which `tests/test_imports.py` holds.
"""

from typing import Any


def coordinator_client() -> Any | None:
    """Return JAX's connection to the coordinator; None where no processes are joined.

    JAX has no public way to the coordinator's key-value store and barriers.
    """
    from jax._src import distributed

    return distributed.global_state.client


def process_number() -> int:
    """Return this process's number among those that are joined.

    `jax.process_index`, the public way, waits for the devices of all processes, one of which may
    have failed.
    """
    from jax._src import distributed

    return distributed.global_state.process_id
