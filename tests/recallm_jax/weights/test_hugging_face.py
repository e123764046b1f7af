"""Hugging Face folders: saved ones are loaded again, and broken ones are refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from recallm_jax.models.presets import RopeScaling
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import hugging_face
from recallm_jax.weights.hugging_face import TokenizerFiles
from recallm_jax.weights.hugging_face_config import read_config, write_config
from recallm_jax.weights.special_ids import StatedIds
from tasks.prompts.vocabulary import ADDED_TOKENS
from tests.oracles.tiny_models import TINY, tiny_folder, tiny_model

# As many entries as the tiny models have rows: 34 characters and six added tokens.
_ENTRIES = Tokenizer(BPE(vocab={chr(0x4E00 + n): n for n in range(34)}, merges=[]))
_ENTRIES.add_special_tokens(["<begin>", "<end>"])
_ENTRIES.add_tokens([AddedToken(t, normalized=False, special=False) for t in ADDED_TOKENS])
TOKENIZER = TokenizerFiles(
    tokenizer_json=_ENTRIES.to_str(),
    chat_template="{{ messages[0]['content'] }}",
    eos_token="<end>",
    bos_token="<begin>",
    special_tokens={"pad_token": "<begin>"},
    stated=StatedIds(
        {"bos_token_id": 34, "eos_token_id": [35, 3], "pad_token_id": 1},
        {"eos_token_id": [3, 35], "top_p": 0.9},
    ),
)


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny_folder("qwen2_yarn"), copy)
    return copy


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_equal_models(first, second):
    assert first.config == second.config
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", TINY)
def test_saved_tensors_and_names_equal_those_of_transformers(tmp_path, name):
    model = tiny_model(name)
    hugging_face.save(model, tmp_path / "out", TOKENIZER)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(tiny_folder(name) / "model.safetensors")
    assert saved.keys() == original.keys()
    for tensor_name, tensor in original.items():
        np.testing.assert_array_equal(saved[tensor_name], tensor, err_msg=tensor_name)
    assert_equal_models(hugging_face.load(tmp_path / "out"), model)


def test_shards_hold_no_more_than_their_limit_and_load_again(tmp_path):
    model = tiny_model("qwen3_plain")
    hugging_face.save(model, tmp_path / "out", TOKENIZER, max_shard_bytes=20_000)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    for name in names:
        sizes = [tensor.nbytes for tensor in load_file(tmp_path / "out" / name).values()]
        assert sum(sizes) <= 20_000
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == names
    assert_equal_models(hugging_face.load(tmp_path / "out"), model)


def test_bfloat16_parameters_survive(tmp_path):
    model = tiny_model("llama_plain", param_dtype="bfloat16")
    hugging_face.save(model, tmp_path / "out", TOKENIZER)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
    loaded = hugging_face.load(tmp_path / "out", param_dtype="bfloat16")
    assert_equal_models(loaded, model)


def test_tokenizer_files_survive(tmp_path):
    hugging_face.save(tiny_model("llama_plain"), tmp_path / "out", TOKENIZER)
    assert hugging_face.load_tokenizer(tmp_path / "out") == TOKENIZER


@pytest.mark.parametrize(
    ("pad_token", "stated", "written"),
    [
        ("丂", {"pad_token_id": 34}, "丂"),
        ("", {"pad_token_id": 34}, "<begin>"),
        ("", {}, "<end>"),
    ],
)
def test_the_eos_token_pads_only_where_a_checkpoint_has_no_other(
    tmp_path, pad_token, stated, written
):
    special = {"pad_token": pad_token} if pad_token else {}
    files = dataclasses.replace(TOKENIZER, special_tokens=special, stated=StatedIds(stated))
    hugging_face.save(tiny_model("llama_plain"), tmp_path / "out", files)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["pad_token"] == written


@pytest.mark.parametrize(
    ("stated", "read"), [("<s>", "<s>"), ({"content": "<s>"}, "<s>"), (None, "")]
)
def test_the_token_that_begins_a_prompt_may_be_missing(tmp_path, stated, read):
    hugging_face.save(tiny_model("llama_plain"), tmp_path / "out", TOKENIZER)
    edit_json(tmp_path / "out" / "tokenizer_config.json", bos_token=stated)
    assert hugging_face.load_tokenizer(tmp_path / "out").bos_token == read


def test_a_jinja_file_is_preferred_to_the_template_in_the_settings(tmp_path):
    hugging_face.save(tiny_model("llama_plain"), tmp_path / "out", TOKENIZER)
    (tmp_path / "out" / "chat_template.jinja").write_text("from the file")
    assert hugging_face.load_tokenizer(tmp_path / "out").chat_template == "from the file"


def test_saving_neither_replaces_a_folder_nor_leaves_half_a_folder(tmp_path, monkeypatch):
    model = tiny_model("llama_plain")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(UserError, match="exists already; give a new folder"):
        hugging_face.save(model, out, TOKENIZER)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "mine").read_text() == "keep"

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hugging_face, "save_file", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        hugging_face.save(model, tmp_path / "other", TOKENIZER)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_both_spellings_of_rotary_settings_mean_the_same(folder):
    fields = json.loads((folder / "config.json").read_text())
    newer = read_config(fields, "x", dtype="float32", remat="full")
    settings = fields.pop("rope_parameters")
    theta = settings.pop("rope_theta")
    settings["type"] = settings.pop("rope_type")
    older = read_config(
        {**fields, "rope_theta": theta, "rope_scaling": settings},
        "x",
        dtype="float32",
        remat="full",
    )
    assert older == newer
    assert newer.rope_scaling == RopeScaling("yarn", factor=4.0, original_max_positions=128)
    written = write_config(newer, param_dtype="float32")
    assert read_config(written, "x", dtype="float32", remat="full") == newer


def test_yarn_added_to_a_config_lengthens_its_context(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields["max_position_embeddings"] = 128
    assert read_config(fields, "x", dtype="float32", remat="full").max_positions == 512


def test_missing_and_truncated_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated .*fetch it again"):
        hugging_face.load(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor"):
        hugging_face.load(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}})
    )
    with pytest.raises(UserError, match=r"00001\.safetensors is missing"):
        hugging_face.load(folder)
    with pytest.raises(UserError, match="is not a folder"):
        hugging_face.load(folder / "nowhere")


def test_an_index_cannot_reach_outside_its_folder(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "../other.safetensors"}})
    )
    with pytest.raises(UserError, match="outside its folder"):
        hugging_face.load(folder)


def test_missing_and_misshapen_tensors_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.bias"
    bias = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"has no tensor '{name}'"):
        hugging_face.load(folder)
    save_file({**tensors, name: bias[:-1]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"'{name}' has shape \[31\].*asks for \[32\]"):
        hugging_face.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.* is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window = True is not supported"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
            "rope type 'longrope' is not supported",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "has no 'factor'"),
    ],
)
def test_unsupported_configs_are_refused(folder, changes, message):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        hugging_face.load(folder)


def test_a_broken_config_is_named(folder):
    (folder / "config.json").write_text('{"architectures": ')
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        hugging_face.load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json is not a JSON object"):
        hugging_face.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        hugging_face.load(folder)


def test_a_folder_without_tokenizer_or_template_is_refused(tmp_path):
    out = tmp_path / "out"
    hugging_face.save(tiny_model("llama_plain"), out, TOKENIZER)
    edit_json(out / "tokenizer_config.json", eos_token=None)
    with pytest.raises(UserError, match="names no eos_token"):
        hugging_face.load_tokenizer(out)
    edit_json(out / "tokenizer_config.json", chat_template=None)
    with pytest.raises(UserError, match="has no chat template"):
        hugging_face.load_tokenizer(out)
    (out / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        hugging_face.load_tokenizer(out)
