"""The strict test process: eight simulated CPU devices, no silent rank promotion."""

import atexit
import os
import shutil
import signal
import tempfile
import zlib

# Read when JAX first looks for devices, which is after this file is loaded.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The tests compile far more than they compute. The second and third flag, which change how
        # fusions are compiled, save as much time again as the first.
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        # Eight devices take turns on two cores: a late one isn't lost.
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    ]
).strip()
# XLA runs independent collectives of a program at once, each holding a thread until its peers
# come. By default there are no more threads than devices, which can all wait for different ones.
os.environ["NPROC"] = "64"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

# Workers, and the processes that tests start, inherit the folder: a program that several of them
# compile is compiled once. A folder given from outside is kept for the next run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="recallm_jax_tests_")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# They need PyTorch: `make test-torch`.
collect_ignore = ["torch"]


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module_at_a_time():
    """Drop compiled programs: each holds memory maps, and their number in a process is limited."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def _interruptible():
    """A shell that starts the tests in the background ignores Ctrl-C for all that they start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def gcs():
    """Google Cloud Storage on localhost, which every client in this process uses."""
    from tests.oracles.gcs_emulator import environment, running

    with running() as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(emulator).items():
            patch.setenv(name, value)
        yield emulator


@pytest.fixture
def bucket(gcs, request):
    """The gs:// path of an empty bucket."""
    name = f"test-{zlib.crc32(request.node.nodeid.encode()):08x}"
    gcs.make_bucket(name)
    yield f"gs://{name}"
    gcs.faults.clear()
