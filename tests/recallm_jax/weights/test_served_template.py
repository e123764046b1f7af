"""An exported chat template writes the prompts of training, and reads back as what it is."""

import pytest

from recallm_jax.policy.tiny import CHAT_TEMPLATE, tiny_tokenizer
from recallm_jax.weights.served_template import served_template
from tasks.prompts.vocabulary import THINK

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\nTHOUGHT{% endif %}"
EMPTY = "<think>\n\n</think>\n\n"
TEMPLATES = {
    "always opens a turn": CHAT_TEMPLATE,
    "opens a turn if asked": TURNS + HEADER.replace("THOUGHT", ""),
    "ends in a line break": TURNS + HEADER.replace("THOUGHT", "") + "\n",
    "ends in two line breaks": TURNS + HEADER.replace("THOUGHT", "") + "\n\n",
    "opens and closes an empty thought": TURNS + HEADER.replace("THOUGHT", EMPTY),
    "opens the thought on the same line": TURNS + HEADER.replace("THOUGHT", "<think>"),
    "opens the thought": TURNS + HEADER.replace("THOUGHT", "<think>\n"),
    "opens none if switched off": TURNS
    + HEADER.replace(
        "THOUGHT",
        "{% if enable_thinking is defined and enable_thinking is false %}" + EMPTY + "{% endif %}",
    ),
    "opens none unless switched on": TURNS
    + HEADER.replace("THOUGHT", "{{ '<think>\\n' if thinking else '</think>' }}"),
}
MESSAGES = [{"role": "user", "content": "Who?"}]
TINY = tiny_tokenizer()


@pytest.fixture(params=TEMPLATES, ids=lambda name: name.replace(" ", "_"))
def tokenizer(request):
    return TINY.with_template(TEMPLATES[request.param])


@pytest.mark.parametrize("thinking", [True, False])
def test_a_served_prompt_is_the_prompt_of_training(tokenizer, thinking):
    served = tokenizer.with_template(served_template(tokenizer, thinking=thinking))
    wanted = tokenizer.chat_prompt("", "Who?", thinking=thinking)
    assert served.render(MESSAGES) == wanted
    for system in ("", "Be brief."):
        for either in (True, False):
            assert served.chat_prompt(system, "Who?", thinking=either) == tokenizer.chat_prompt(
                system, "Who?", thinking=either
            )


def test_the_thought_is_opened_once_after_the_header(tokenizer):
    served = tokenizer.with_template(served_template(tokenizer, thinking=True))
    for prompt in (served.render(MESSAGES), served.chat_prompt("", "Who?")):
        # Jinja drops a line break at the very end of a template.
        header = prompt.removesuffix("<think>\n").rstrip()
        assert header.endswith("<|im_start|>assistant") and prompt.count(THINK) == 1


def test_earlier_turns_are_written_as_before(tokenizer):
    served = tokenizer.with_template(served_template(tokenizer, thinking=True))
    turns = [*MESSAGES, {"role": "assistant", "content": "Ada."}]
    assert served.render(turns, opens_turn=False) == tokenizer.render(turns, opens_turn=False)
    assert served.eos_id == tokenizer.eos_id


def test_exporting_an_export_changes_nothing(tokenizer):
    once = served_template(tokenizer, thinking=True)
    assert served_template(tokenizer.with_template(once), thinking=True) == once


def test_a_server_can_switch_the_thought_off():
    served = TINY.with_template(served_template(TINY, thinking=True))
    assert THINK not in served.render(MESSAGES, thinking=False)
