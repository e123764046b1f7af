"""Keys of tokenizer files: used, harmless, or refused by name."""

import json

import pytest

from recallm_jax.policy.tiny import CHAT_TEMPLATE, tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.hugging_face import load_tokenizer
from tasks.prompts.vocabulary import Tokenizer

TOKENIZER = json.loads(tiny_tokenizer().to_json())
# As Qwen's folders have it.
SETTINGS = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "added_tokens_decoder": {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in TOKENIZER["added_tokens"]
    },
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "bos_token": None,
    "chat_template": CHAT_TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "model_max_length": 131072,
    "pad_token": "<|endoftext|>",
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}


def load(folder, settings=SETTINGS, tokenizer=TOKENIZER):
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return load_tokenizer(folder)


def test_special_tokens_reach_the_template_by_their_names(tmp_path):
    tokens = {"image_token": {"content": "<think>"}, "extra_special_tokens": {"end": "</think>"}}
    template = "{{ pad_token }} {{ image_token }} {{ end }} {{ bos_token is defined }}"
    template += " {{ unk_token is defined }}\n{{ messages[0].content }}"
    files = load(tmp_path, SETTINGS | tokens | {"chat_template": template})
    assert files.special_tokens == {
        "pad_token": "<|endoftext|>",
        "image_token": "<think>",
        "end": "</think>",
    }
    tokenizer = Tokenizer(
        files.tokenizer_json,
        chat_template=files.chat_template,
        eos_token=files.eos_token,
        bos_token=files.bos_token,
        special_tokens=files.special_tokens,
    )
    prompt = tokenizer.chat_prompt("", "?", thinking=False)
    assert prompt == "<|endoftext|> <think> </think> False False\n?"


def test_a_special_token_of_the_vocabulary_alone_is_read_whole():
    without = [token for token in TOKENIZER["added_tokens"] if token["id"] != 0]
    text = json.dumps(TOKENIZER | {"added_tokens": without})
    tokenizer = Tokenizer(
        text,
        chat_template=CHAT_TEMPLATE,
        eos_token="<|im_end|>",
        special_tokens={"pad_token": "<|endoftext|>"},
    )
    assert tokenizer.encode("a<|endoftext|>")[-1] == 0 and 0 in tokenizer.special_ids


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"do_lower_case": True}, "do_lower_case = True writes all texts in small letters, but"),
        ({"split_special_tokens": True}, "split_special_tokens = True reads special tokens as"),
        ({"add_prefix_space": True}, "add_prefix_space = True writes a space before each text"),
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map = .* names code of its own"),
        ({"word_order": "reversed"}, "has the key 'word_order' = 'reversed', which is not known"),
        ({"pad_token": "<pad>"}, "pad_token names the token '<pad>', which tokenizer.json lacks"),
        ({"extra_special_tokens": ["<x>"]}, "extra_special_tokens names the token '<x>', which"),
        ({"unk_token": 3}, "unk_token = 3 is not a token; give its text"),
        (
            {"added_tokens_decoder": {"7": {"content": "<|im_end|>"}}},
            "gives '<|im_end|>' the id 7, tokenizer.json 2; load the folder with transformers",
        ),
        (
            {"added_tokens_decoder": {"2": {"content": "<|im_end|>", "rstrip": True}}},
            "gives '<|im_end|>' rstrip = True, tokenizer.json False; load",
        ),
        ({"added_tokens_decoder": {"2": "<|im_end|>"}}, "added_tokens_decoder is not an object"),
        ({"added_tokens_decoder": ["<|im_end|>"]}, "added_tokens_decoder is not an object with"),
        ({"added_tokens_decoder": {"two": {"content": "<|im_end|>"}}}, "the id two, tokenizer"),
        ({"chat_template": 3}, "chat_template is neither a text nor a list of objects"),
        ({"chat_template": ["a"]}, "chat_template is neither a text nor a list of objects"),
    ],
)
def test_settings_that_change_tokens_are_refused_by_name(tmp_path, changed, message):
    message = message.replace("|", r"\|")
    with pytest.raises(UserError, match=rf"{tmp_path}/tokenizer_config\.json.*{message}"):
        load(tmp_path, SETTINGS | changed)


def test_unknown_parts_of_a_tokenizer_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json has the key 'reverser' = \{'type': 'R'"):
        load(tmp_path, tokenizer=TOKENIZER | {"reverser": {"type": "R"}})


@pytest.mark.parametrize("broken", [{"model": None}, {"added_tokens": [{}]}, {"model": {}}])
def test_a_damaged_tokenizer_is_refused(tmp_path, broken):
    with pytest.raises(UserError, match=r"tokenizer\.json can't be read \(its vocabulary or added"):
        load(tmp_path, tokenizer=TOKENIZER | broken)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_no_object_is_refused(tmp_path, name):
    load(tmp_path)
    (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match=rf"{name} is not a JSON object; "):
        load_tokenizer(tmp_path)


def test_special_tokens_map_decides_only_without_added_tokens_decoder(tmp_path):
    """As in transformers, for which it is the file of old folders."""
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert load(tmp_path).eos_token == "<|im_end|>"
    old = {name: value for name, value in SETTINGS.items() if name != "added_tokens_decoder"}
    assert load(tmp_path, old).eos_token == "<|endoftext|>"


def test_a_tokenizer_in_another_form_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"tokenizer\.json is missing; .* reads tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_of_several_templates_the_default_is_taken(tmp_path):
    several = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": CHAT_TEMPLATE},
    ]
    files = load(tmp_path, SETTINGS | {"chat_template": several})
    assert files.chat_template == CHAT_TEMPLATE
    with pytest.raises(UserError, match="has no chat template"):
        load(tmp_path, SETTINGS | {"chat_template": several[:1]})
