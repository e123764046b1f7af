"""Starting and ending a job's processes together: none waits for one that has ended.

`--distributed` joins the processes of one job. Every host runs one or more of them, all with the
same command. On TPU pods, and under Slurm or Open MPI, JAX finds the others by itself. Elsewhere
the environment of each process says who they are:

    JAX_COORDINATOR_ADDRESS=host0:8476 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0

Process 0 is the coordinator, and listens at that address. A process that fails tells the others,
which report it and end with its exit code. One that is killed can't: on CPU, and if it was process
0, the broken connection ends the others; otherwise JAX does, after `HEARTBEAT_SECONDS`.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from recallm_jax.runtime import private_api

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
HEARTBEAT_SECONDS = 100
# The time that processes have to report the failure of another.
FAREWELL_SECONDS = 10
# A process may have done its part of an evaluation days before another.
_PATIENCE_SECONDS = 20 * 24 * 3600
_FAILURE, _FAREWELL, _DONE = "recallm/failure", "recallm/farewell", "recallm/done"
# Held by the thread that ends this process.
_leaving = threading.Lock()


class NotJoined(Exception):
    """The other processes can't be found; the message is one line."""


class NotReached(NotJoined):
    """The other processes did not come in time; the same command may meet them."""


@contextlib.contextmanager
def joined(wanted: bool) -> Iterator[None]:
    """Run the block as one of the processes of a job; alone if that is not wanted.

    Enter it before anything touches a device. A block that raises leaves by `leave`, which
    `errors.run_job` calls.

    Raises:
      NotJoined: the other processes can't be found.
    """
    if not wanted:
        yield
        return
    _join()
    client: Any = _client()
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(client, stop), name="peers", daemon=True)
    watch.start()
    try:
        yield
        client.wait_at_barrier(_DONE, _PATIENCE_SECONDS * 1000)
    finally:
        stop.set()
        watch.join()
    # After the last barrier, so that no process waits here either.
    import jax

    jax.distributed.shutdown()


def are_joined() -> bool:
    """Return whether this process is one of several of a job."""
    return _client() is not None


def leave(code: int, message: str) -> None:
    """Tell the other processes of a failure, and end this one; return at once if it is alone."""
    client: Any = _client()
    if client is None:
        return
    _leaving.acquire()
    with contextlib.suppress(Exception):
        number = private_api.process_number()
        failure = json.dumps({"process": number, "code": code, "message": message})
        client.key_value_set(_FAILURE, failure)
    _end(client, code)


def _join() -> None:
    import jax

    options = _from_environment(os.environ)
    # JAX sets its flags as attributes, by name.
    flags: Any = jax.config
    flags.update("jax_cpu_collectives_implementation", "gloo")
    if flags.jax_platforms == "cpu":
        # XLA may run collectives that do not depend on each other in any order, but gloo must come
        # to the same order in every process. The flag is read when JAX first looks for devices.
        xla_flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{xla_flags} {IN_ORDER}".strip()
    # `termination` handles SIGTERM, not JAX.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**options, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
        raise NotJoined(
            f"--distributed: JAX finds no other processes here ({error}); set {ADDRESS}, {COUNT} "
            f"and {NUMBER} for each of them"
        ) from None
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0]
        where = os.environ.get(ADDRESS, "the coordinator")
        raise NotReached(
            f"--distributed: {where} was not reached ({reason}); start all processes, and see that "
            "process 0 may listen there"
        ) from None


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `jax.distributed.initialize`; empty if JAX finds them itself."""
    given = [name for name in (COUNT, NUMBER) if name in variables]
    if not given:
        return {}
    for name in (ADDRESS, COUNT, NUMBER):
        if not variables.get(name):
            raise NotJoined(f"--distributed: {given[0]} is set but {name} is not; set all three")
    values = {}
    for name in (COUNT, NUMBER):
        if not variables[name].isdecimal():
            raise NotJoined(f"--distributed: {name} = {variables[name]!r} must be a whole number")
        values[name] = int(variables[name])
    if values[NUMBER] >= values[COUNT]:
        raise NotJoined(
            f"--distributed: {NUMBER} = {values[NUMBER]} must be below {COUNT} = {values[COUNT]}; "
            "processes are counted from 0"
        )
    if ":" not in variables[ADDRESS]:
        raise NotJoined(f"--distributed: {ADDRESS} = {variables[ADDRESS]!r} must be HOST:PORT")
    return {
        "coordinator_address": variables[ADDRESS],
        "num_processes": values[COUNT],
        "process_id": values[NUMBER],
    }


def _client() -> Any | None:
    """Return the connection to the coordinator; None if no processes are joined."""
    if "jax" not in sys.modules:
        return None
    return private_api.coordinator_client()


def _watch(client: Any, stop: threading.Event) -> None:
    """End this process when another one has failed."""
    while not stop.wait(1.0):
        try:
            failure = json.loads(client.key_value_try_get(_FAILURE))
        # Nothing is there, or the coordinator is gone: then JAX ends this process.
        except Exception:
            continue
        _leaving.acquire()
        who, message = failure["process"], failure["message"]
        print(f"error: process {who} ended the job: {message}", file=sys.stderr)
        _end(client, failure["code"])


def _end(client: Any, code: int) -> None:
    with contextlib.suppress(Exception):
        client.wait_at_barrier(_FAREWELL, FAREWELL_SECONDS * 1000)
    if private_api.process_number() == 0:
        # The others' connections end with the coordinator, and they would take this for a fault.
        time.sleep(1.0)
    sys.stdout.flush()
    sys.stderr.flush()
    # Python's own exit would wait for computations that never end.
    os._exit(code)
