"""Adapters that peft wrote compute here what they compute there."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import peft
from recallm_jax.weights.hugging_face import TokenizerFiles
from tests.oracles.tiny_models import GOLDEN, tiny_model

ROWS = (2, 5, 11, 37)
TOKENIZER = Tokenizer(BPE(vocab={chr(0x4E00 + n): n for n in range(40)}, merges=[]))
FILES = TokenizerFiles(TOKENIZER.to_str(), "{{ messages }}", "一", "")


@pytest.mark.parametrize("name", ["qwen2_plain", "smollm2_plain"])
def test_logits_are_those_of_peft(name):
    folder = GOLDEN / "peft" / name
    model = peft.load(folder, tiny_model(name), ROWS)
    with np.load(folder / "expected.npz") as golden:
        tokens, expected = golden["tokens"], golden["logits"]
    hidden = jax.jit(type(model).score)(
        model, jnp.asarray(tokens[None, :1]), jnp.array([1]), jnp.asarray(tokens[None, None, 1:])
    )
    got = model.unembed(hidden)[0, 0]
    np.testing.assert_allclose(got, expected[:-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["qwen2_plain", "smollm2_plain"])
def test_an_adapter_is_written_as_peft_wrote_it(name, tmp_path):
    folder = GOLDEN / "peft" / name
    peft.save(peft.load(folder, tiny_model(name), ROWS), tmp_path / "out", FILES)
    got, expected = (load_file(path / peft.WEIGHTS) for path in (tmp_path / "out", folder))
    assert got.keys() == expected.keys()
    for tensor in got:
        np.testing.assert_allclose(got[tensor], expected[tensor], rtol=0, atol=1e-6)
    ours, theirs = (
        json.loads((path / peft.CONFIG).read_text()) for path in (tmp_path / "out", folder)
    )
    for setting in ("r", "lora_alpha", "peft_type", "task_type", "trainable_token_indices", "bias"):
        assert ours[setting] == theirs[setting], setting
    assert sorted(ours["target_modules"]) == sorted(theirs["target_modules"])


def test_an_adapter_in_bfloat16_is_half_as_large_and_reads_back_rounded(tmp_path):
    folder = GOLDEN / "peft" / "smollm2_plain"
    model = peft.load(folder, tiny_model("smollm2_plain"), ROWS)
    peft.save(model, tmp_path / "out", FILES, param_dtype="bfloat16")
    got, expected = (load_file(path / peft.WEIGHTS) for path in (tmp_path / "out", folder))
    for tensor in expected:
        assert got[tensor].dtype == jnp.bfloat16
        np.testing.assert_allclose(
            got[tensor].astype(np.float32), expected[tensor], rtol=2**-8, atol=1e-6
        )
    peft.load(tmp_path / "out", tiny_model("smollm2_plain"), ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "has no tensor 'base_model.model"),
        (lambda tensors: tensors.update(extra=np.zeros(1)), "no adapter here, such as 'extra'"),
        (
            lambda tensors: next(iter(tensors.values())).fill(np.nan),
            "holds NaN or infinite numbers",
        ),
    ],
)
def test_a_damaged_adapter_is_refused_by_name(tmp_path, change, message):
    folder = shutil.copytree(GOLDEN / "peft" / "smollm2_plain", tmp_path / "adapter")
    tensors = load_file(folder / peft.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / peft.WEIGHTS)
    with pytest.raises(UserError, match=message):
        peft.load(folder, tiny_model("smollm2_plain"), ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens = [3] is not supported"),
        ({"use_qalora": True}, "use_qalora = True is not supported, only False is; merge the"),
        ({"exclude_modules": ["up_proj"]}, "exclude_modules = ['up_proj'] is not supported"),
        ({"init_lora_weights": "pissa"}, "'pissa' is not supported, because it changes the frozen"),
        ({"r": "2"}, "r = '2' is not a number of columns"),
        ({"lora_alpha": None}, "lora_alpha = None is not a finite number above 0"),
        ({"trainable_token_indices": [2, "x", 3, 4]}, "trainable_token_indices = [2, 'x', 3, 4]"),
    ],
)
def test_settings_that_compute_something_else_are_refused_by_name(tmp_path, change, message):
    folder = shutil.copytree(GOLDEN / "peft" / "smollm2_plain", tmp_path / "adapter")
    settings = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps(settings | change))
    with pytest.raises(UserError) as error:
        peft.load(folder, tiny_model("smollm2_plain"), ROWS)
    assert message in str(error.value)


def test_settings_that_peft_leaves_empty_are_taken(tmp_path):
    folder = shutil.copytree(GOLDEN / "peft" / "smollm2_plain", tmp_path / "adapter")
    settings = json.loads((folder / peft.CONFIG).read_text())
    empty = {"modules_to_save": [], "exclude_modules": [], "rank_pattern": {}, "use_dora": None}
    (folder / peft.CONFIG).write_text(json.dumps(settings | empty))
    assert peft.load(folder, tiny_model("smollm2_plain"), ROWS).config.lora is not None
    (folder / peft.CONFIG).write_text("[]")
    with pytest.raises(UserError, match="holds no object; give a PEFT folder"):
        peft.load(folder, tiny_model("smollm2_plain"), ROWS)


def test_a_truncated_or_missing_file_is_refused(tmp_path):
    folder = shutil.copytree(GOLDEN / "peft" / "smollm2_plain", tmp_path / "adapter")
    whole = (folder / peft.WEIGHTS).read_bytes()
    (folder / peft.WEIGHTS).write_bytes(whole[:-9])
    with pytest.raises(UserError, match="truncated or damaged"):
        peft.load(folder, tiny_model("smollm2_plain"), ROWS)
    (folder / peft.WEIGHTS).unlink()
    with pytest.raises(UserError, match="is missing; fetch the adapter again"):
        peft.load(folder, tiny_model("smollm2_plain"), ROWS)
