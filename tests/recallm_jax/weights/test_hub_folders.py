"""No key that the hub's folders of supported models hold is refused."""

import json

import pytest

from recallm_jax.policy.tiny import CHAT_TEMPLATE, tiny_tokenizer
from recallm_jax.weights.config_keys import check_generation_config
from recallm_jax.weights.hugging_face import load_tokenizer
from recallm_jax.weights.hugging_face_config import read_config

TOKENIZER = tiny_tokenizer().to_json()
SIZES = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "vocab_size": 384,
}
QWEN2 = SIZES | {
    "architectures": ["Qwen2ForCausalLM"],
    "max_window_layers": 2,
    "model_type": "qwen2",
    "sliding_window": 131072,
    "use_sliding_window": False,
}
QWEN3 = QWEN2 | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "model_type": "qwen3",
    "rope_scaling": None,
    "sliding_window": None,
}
LLAMA = SIZES | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
}
LLAMA_ROPE = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
R1_ROPE = {
    "attn_factor": 0.8782488562869419,
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
    "rope_type": "yarn",
}
CONFIGS = {
    "Qwen2.5-7B-Instruct": QWEN2,
    "Qwen2.5-Math-7B": QWEN2 | {"use_mrope": False},
    "QwQ-32B": QWEN2 | {"sliding_window": 32768},
    "Qwen3-8B": QWEN3,
    "DeepSeek-R1-0528-Qwen3-8B": QWEN3 | {"rope_scaling": R1_ROPE},
    "DeepSeek-R1-Distill-Qwen-7B": QWEN2 | {"rope_theta": 10000, "use_mrope": False},
    "DeepSeek-R1-Distill-Llama-8B": LLAMA | {"rope_scaling": LLAMA_ROPE},
    "Llama-3.2-1B-Instruct": LLAMA | {"head_dim": 64, "rope_scaling": LLAMA_ROPE},
    "SmolLM2-1.7B-Instruct": LLAMA
    | {"is_llama_config": True, "pad_token_id": 2, "rope_interleaved": False, "rope_scaling": None}
    | {"transformers.js_config": {"dtype": "q4", "use_external_data_format": {"model.onnx": True}}},
}
GENERATIONS = [
    {
        "bos_token_id": 0,
        "do_sample": True,
        "eos_token_id": [2, 0],
        "pad_token_id": 0,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "transformers_version": "4.37.0",
    },
    {"bos_token_id": 0, "do_sample": False, "eos_token_id": 0, "max_new_tokens": 2048},
    {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 2},
]


def written_token(content):
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": content} | flags


SETTINGS = {
    "Qwen": {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    },
    "Llama 3": {
        "bos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|im_end|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    },
    "DeepSeek-R1": {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": written_token("<|endoftext|>"),
        "clean_up_tokenization_spaces": False,
        "eos_token": written_token("<|im_end|>"),
        "legacy": True,
        "model_max_length": 16384,
        "pad_token": written_token("<|im_end|>"),
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": None,
    },
    "SmolLM2": {
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": "<|im_start|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 8192,
        "pad_token": "<|im_end|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
        "vocab_size": 49152,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_of_a_supported_model_is_read(name):
    sizes = read_config(CONFIGS[name], "config.json", dtype="float32", remat="full")
    assert (sizes.width, sizes.head_dim) == (64, CONFIGS[name].get("head_dim", 16))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_generation_config_of_a_supported_model_is_read(generation):
    check_generation_config(generation, "generation_config.json")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tokenizer_settings_of_a_supported_model_are_read(name, tmp_path):
    settings = SETTINGS[name] | {"chat_template": CHAT_TEMPLATE}
    (tmp_path / "config.json").write_text(json.dumps(QWEN2))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    tokenizer = load_tokenizer(tmp_path).tokenizer()
    assert tokenizer.decode([tokenizer.eos_id]) == "<|im_end|>"
