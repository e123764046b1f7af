"""The strict test process: eight simulated CPU devices, no silent rank promotion."""

import os

# Read when JAX first looks for devices, which is after this file is loaded.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The tests compile far more than they compute.
        "--xla_backend_optimization_level=0",
    ]
).strip()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module_at_a_time():
    """Let go of compiled programs: each holds memory maps, of which a process has only so many."""
    yield
    jax.clear_caches()
