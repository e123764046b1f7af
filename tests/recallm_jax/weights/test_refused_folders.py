"""Folders that hold something else than plain weights of a known model are refused by name."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import hugging_face
from recallm_jax.weights.source import load_policy
from tests.oracles.tiny_models import tiny_folder

KEY = "model.layers.1.self_attn.k_proj"


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny_folder("qwen2_yarn"), copy)
    return copy


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, **changes):
    """Replace tensors, or remove those that are None."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: x for name, x in tensors.items() if x is not None}, path)


def message(folder) -> str:
    with pytest.raises(UserError) as error:
        hugging_face.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mixture_of_depths": 2}, "the key 'mixture_of_depths' (= 2) is not known"),
        ({"mlp_bias": True}, "mlp_bias = True is not supported; only False is: it changes biases"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types = ['sliding_attention', "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
        (
            {"suppress_tokens": [3]},
            "suppress_tokens = [3] is not supported; only [] is: it changes",
        ),
        ({"model_type": "mistral"}, "model_type = 'mistral' is not supported with architecture"),
        ({"architectures": None, "model_type": "phi3"}, "model_type = 'phi3' is not supported"),
        ({"architectures": "Qwen2ForCausalLM"}, "architectures = 'Qwen2ForCausalLM' is not a list"),
        ({"architectures": [["a"]]}, "architectures = [['a']] is not a list of names; take the"),
        ({"model_type": ["qwen2"]}, "model_type = ['qwen2'] is not a text"),
        ({"hidden_size": "32"}, "hidden_size = '32' is not a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0 is not a positive whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3 does not divide num_attention_he"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan is not a finite number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no' is not true or false"),
        ({"hidden_size": 30}, "hidden_size = 30 is not a multiple of num_attention_heads = 4"),
        ({"head_dim": 7}, "head_dim = 7 is odd"),
    ],
)
def test_keys_that_change_the_model_are_refused_with_their_values(folder, changes, expected):
    edit_config(folder, **changes)
    assert f"config.json: {expected}" in message(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": False},
        {"layer_types": ["full_attention"] * 2, "sliding_window": 64, "max_window_layers": 1},
        {"mixture_of_depths": None, "pretraining_tp": 2, "partial_rotary_factor": 1.0},
        {"temperature": 0.6, "suppress_tokens": [], "id2label": {"0": "A"}},
        {"attention_bias": True},
        {"architectures": ["RecaLLMQwen2ForCausalLM"], "model_type": "recallm_qwen2"}
        | {"force_recall": True, "recall_tag_type": "token_id", "recall_start_token_id": 38}
        | {"recall_end_token_id": 39, "max_recall_length": 128, "use_fast_recall": True}
        | {"recall_start_str": "<recall>", "recall_end_str": "</recall>"},
    ],
)
def test_keys_that_change_nothing_are_read_over(folder, changes):
    expected = hugging_face.load(folder)
    edit_config(folder, **changes)
    assert hugging_face.load(folder).config == expected.config


def test_the_papers_llama_is_a_llama(tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny_folder("llama_plain"), copy)
    edit_config(copy, architectures=["RecaLLMLlamaForCausalLM"], model_type="recallm_llama")
    assert hugging_face.load(copy).config == hugging_face.load(tiny_folder("llama_plain")).config


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "it changes the frequencies with the length"),
        ({"rope_type": "longrope"}, "it gives short and long texts frequencies of their own"),
        ({"rope_type": "yarn"}, "rope_scaling has no 'factor', which rope type 'yarn' needs"),
        ({"rope_type": "llama3", "factor": "8"}, "rope_scaling: factor = '8' is not a number"),
        (
            {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4.0},
            "high_freq_factor = 4.0 is not above low_freq_factor = 4.0",
        ),
        (
            {"rope_type": "linear", "factor": 2, "mscale": 3},
            "mscale = 3 is not supported with rope type 'linear'",
        ),
        (
            {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5},
            "partial_rotary_factor = 0.5 is not supported: it rotates a part of each head",
        ),
        ({"rope_type": "yarn", "factor": -2.0}, "factor = -2.0 is not a finite number above 0"),
        ({"rope_type": ["yarn"], "factor": 2.0}, "rope_type = ['yarn'] is not a text"),
        (["yarn"], "rope_scaling = ['yarn'] is not an object"),
    ],
)
def test_rotary_settings_that_are_not_computed_are_refused(folder, rope, expected):
    edit_config(folder, rope_scaling=rope)
    assert expected in message(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"suppress_tokens": [3]}, "suppress_tokens = [3] is not supported"),
        ({"guidance_scale": 1.5}, "guidance_scale = 1.5 is not supported; only 1 is"),
        ({"spells": 1}, "the key 'spells' (= 1) is not known"),
    ],
)
def test_a_generation_config_that_changes_tokens_is_refused(folder, content, expected):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "top_p": 0.8, "eos_token_id": [2, 0]}))
    hugging_face.load(folder)
    path.write_text("[]")
    assert "generation_config.json is not a JSON object" in message(folder)
    path.write_text(json.dumps(content))
    assert f"generation_config.json: {expected}" in message(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "dequantize().save_pretrained"),
        ({"load_in_4bit": True}, "quantized by bitsandbytes (quantization_config of its config"),
        ({"quant_method": "fp8"}, "quantization_config=FineGrainedFP8Config(dequantize=True)"),
        ({"quant_method": "gptq", "bits": 4}, "quantized by gptq"),
        ({"quant_method": "awq"}, "fetch the checkpoint that they were made from"),
    ],
)
def test_a_config_of_quantized_weights_says_how_to_get_plain_ones(folder, settings, expected):
    edit_config(folder, quantization_config=settings)
    assert expected in message(folder)


@pytest.mark.parametrize(
    ("name", "values", "method"),
    [
        (".SCB", np.ones(16, np.float32), "bitsandbytes (int8)"),
        (".weight.absmax", np.ones(16, np.float32), "bitsandbytes (4 bits)"),
        (".weight.quant_state.bitsandbytes__nf4", np.ones(8, np.uint8), "bitsandbytes (4 bits)"),
        (".weight_scale_inv", np.ones((1, 1), np.float32), "fp8"),
        (".qweight", np.ones((4, 4), np.int32), "gptq or awq"),
        (".scales", np.ones((4, 4), np.float16), "MLX"),
        (".weight_packed", np.ones((4, 4), np.int32), "compressed-tensors"),
    ],
)
def test_tensors_of_quantized_weights_are_recognised_without_a_config(folder, name, values, method):
    edit_tensors(folder, **{KEY + name: values})
    assert f"quantized by {method} (tensor '{KEY}{name}')" in message(folder)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.int8, "I8"), (ml_dtypes.float8_e4m3fn, "F8_E4M3"), (bool, "BOOL")]
)
def test_values_that_are_not_plain_floats_are_refused(folder, dtype, kind):
    edit_tensors(folder, **{f"{KEY}.weight": np.ones((16, 32), dtype)})
    assert f"tensor '{KEY}.weight' has values of type {kind}, which are not read" in message(folder)


def test_tensors_without_a_use_are_named(folder):
    edit_tensors(folder, **{f"{KEY}.lora_A": np.ones(3, np.float32)})
    assert f"holds tensor '{KEY}.lora_A', which the decoder of qwen2 does not" in message(folder)
    edit_tensors(folder, **{"model.layers.1.mlp.up_proj.bias": np.ones(48, np.float32)})
    assert f"holds tensor '{KEY}.lora_A' and 1 more, which" not in message(folder)
    assert "holds tensor 'model.layers.1.mlp.up_proj.bias' and 1 more, which" in message(folder)


def test_a_tensor_beside_the_model_is_named_as_in_the_file(folder):
    edit_tensors(folder, **{"v_head.summary.weight": np.ones((1, 32), np.float32)})
    assert "holds tensor 'v_head.summary.weight', which the decoder of qwen2" in message(folder)


def test_a_file_with_other_names_is_not_taken_for_a_model_without_its_output(folder):
    path = folder / "model.safetensors"
    save_file({f"_orig_mod.{name}": x for name, x in load_file(path).items()}, path)
    expected = "has no tensor 'model.embed_tokens.weight' and 26 more, which a qwen2 of 2 layers"
    assert expected in message(folder)


def test_json_that_is_nested_too_deeply_is_refused(folder):
    (folder / "config.json").write_text("[" * 100_000)
    assert "config.json is not JSON (maximum recursion depth" in message(folder)


def test_a_missing_output_matrix_is_named(folder):
    edit_tensors(folder, **{"lm_head.weight": None})
    expected = "has no output matrix: there is no tensor 'lm_head.weight', and tie_word_embeddings"
    assert expected in message(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_weights_that_are_no_numbers_are_named(folder, value, dtype):
    bias = np.zeros(16, dtype)
    bias[5] = value
    edit_tensors(folder, **{f"{KEY}.bias": bias})
    assert f"tensor '{KEY}.bias' holds NaN, infinity, or a value above 1.8e+19" in message(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_large_and_small_numbers_of_every_type_are_weights(folder, dtype):
    bias = np.array([0.0, -0.0, 6e4, -6e4, 1e-5, -1e-7, 1, -1] * 2, dtype)
    edit_tensors(folder, **{f"{KEY}.bias": bias})
    found = hugging_face.load(folder).layers.key_bias[...][1]
    np.testing.assert_array_equal(found, bias.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_half_precision_weights_that_are_no_numbers_are_named(folder, value):
    edit_tensors(folder, **{f"{KEY}.bias": np.full(16, value, np.float16)})
    assert f"tensor '{KEY}.bias' holds NaN" in message(folder)


def test_a_folder_for_mlx_is_recognised(folder):
    edit_config(folder, quantization={"group_size": 64, "bits": 4})
    assert "quantized by MLX (quantization of its config.json)" in message(folder)


def test_a_folder_of_model_optimizer_is_not_taken_for_compressed_tensors(folder):
    edit_tensors(folder, **{f"{KEY}.weight_scale": np.ones(1, np.float32)})
    (folder / "hf_quant_config.json").write_text("{}")
    assert "quantized by modelopt (hf_quant_config.json)" in message(folder)


def test_an_adapter_is_not_a_model(folder):
    (folder / "adapter_config.json").write_text("{}")
    expected = "holds an adapter (adapter_config.json), not a model; name it as config.model.adapt"
    assert expected in message(folder)


@pytest.mark.parametrize("changes", [{"architectures": ["GPT2LMHeadModel"]}, None])
def test_what_a_folder_holds_is_named_before_its_tokenizer(tmp_path, changes):
    """GPT-2 has no chat template, and an adapter no tokenizer.json: neither is the remedy."""
    if changes is None:
        (tmp_path / "adapter_config.json").write_text("{}")
        expected = "holds an adapter"
    else:
        (tmp_path / "config.json").write_text(json.dumps(changes))
        expected = r"architecture \['GPT2LMHeadModel'\] is not supported"
    with pytest.raises(UserError, match=expected):
        load_policy(tmp_path)
