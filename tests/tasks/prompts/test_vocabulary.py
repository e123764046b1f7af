"""Tokenizer files and chat templates: required contents, and errors for broken ones."""

import pytest

from recallm_jax.policy.tiny import CHAT_TEMPLATE, tiny_tokenizer
from tasks.errors import TaskInputError
from tasks.prompts.vocabulary import Tokenizer

TINY_JSON = tiny_tokenizer().to_json()


def with_template(template: str) -> Tokenizer:
    return Tokenizer(TINY_JSON, chat_template=template, eos_token="<|im_end|>")


def test_a_truncated_tokenizer_is_refused_in_one_line():
    with pytest.raises(TaskInputError, match=r"tokenizer\.json can't be read \(.*\); take it from"):
        Tokenizer(TINY_JSON[:-5], chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>")


LLAMA_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def test_a_template_that_writes_the_beginning_token_gives_prompts_that_begin_with_it():
    tokenizer = Tokenizer(
        TINY_JSON,
        chat_template=LLAMA_TEMPLATE,
        eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
    )
    prompt = tokenizer.chat_prompt("Be brief.", "Who?")
    assert prompt == "<|endoftext|>Be brief.<|im_end|>Who?<|im_end|><think>\n"
    first, second = tokenizer.encode(prompt)[:2]
    assert tokenizer.decode([first]) == "<|endoftext|>" and second != first


def test_a_template_that_does_not_write_it_gives_the_same_prompts_with_and_without():
    plain = with_template(CHAT_TEMPLATE)
    named = Tokenizer(
        TINY_JSON, chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>", bos_token="<|im_start|>"
    )
    assert plain.chat_prompt("Be brief.", "Who?") == named.chat_prompt("Be brief.", "Who?")


def test_a_special_token_of_another_tokenizer_is_refused():
    with pytest.raises(TaskInputError, match="the tokenizer has no token '<s>'; take tokenizer"):
        Tokenizer(TINY_JSON, chat_template=LLAMA_TEMPLATE, eos_token="<|im_end|>", bos_token="<s>")
