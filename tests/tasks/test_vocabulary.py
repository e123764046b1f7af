"""Tokenizer files and chat templates: what they must hold, and what a broken one is told."""

import pytest

from recallm_jax.setup_policy import CHAT_TEMPLATE, tiny_tokenizer
from tasks.errors import TaskInputError
from tasks.vocabulary import Tokenizer

TINY_JSON = tiny_tokenizer().to_json()


def with_template(template: str) -> Tokenizer:
    return Tokenizer(TINY_JSON, chat_template=template, eos_token="<|im_end|>")


def test_a_truncated_tokenizer_is_refused_in_one_line():
    with pytest.raises(TaskInputError, match=r"tokenizer\.json can't be read \(.*\); take it from"):
        Tokenizer(TINY_JSON[:-5], chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", r"line 1: Unexpected end of template"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ messages[1].content | upper }}", "does not write the user's text as it is"),
    ],
)
def test_a_broken_chat_template_is_refused_by_its_reason(template, reason):
    with pytest.raises(TaskInputError, match=rf"the chat template can't be used \(.*{reason}"):
        with_template(template).chat_prompt("Be brief.", "Who?")


def test_a_template_may_refuse_a_conversation_itself():
    template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(TaskInputError, match="refuses this conversation: no system turn"):
        with_template(template).chat_prompt("Be brief.", "Who?")
