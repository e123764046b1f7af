"""Chat templates give the texts that transformers gives, and each prompt opens one thought."""

import datetime
import json
import pathlib

import pytest

from tasks.errors import TaskInputError
from tasks.prompts import chat_template
from tasks.prompts.chat_template import ChatTemplate

GOLDEN = pathlib.Path("tests/golden")
WRITTEN = json.loads((GOLDEN / "chat_templates.json").read_text("utf-8"))
FAMILIES = sorted(path.stem for path in (GOLDEN / "chat_templates").glob("*.jinja"))
SYSTEM, USER = (turn["content"] for turn in WRITTEN["conversations"]["system and user"])


def source(family):
    return (GOLDEN / "chat_templates" / f"{family}.jinja").read_text("utf-8")


def template(text):
    return ChatTemplate(text, WRITTEN["special_tokens"])


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_render_as_in_transformers(family):
    cases = [case for case in WRITTEN["cases"] if case["template"] == family]
    compiled = template(source(family))
    for case in cases:
        messages = WRITTEN["conversations"][case["conversation"]]
        options = {name: case[name] for name in ("opens_turn", "thinking")}
        if "error" in case:
            with pytest.raises(TaskInputError, match=f"refuses .*: {case['error']}; if the model"):
                compiled.render(messages, **options)
        else:
            assert compiled.render(messages, **options) == case["text"]
    assert len(cases) == 4 * len(WRITTEN["conversations"])


def test_today_is_the_day_of_the_golden_texts():
    assert chat_template.TODAY.date() == datetime.date.fromisoformat(WRITTEN["today"])
    now = template("{{ strftime_now('%d %b %Y') }}").render([], thinking=True)
    assert now == "26 Jul 2024"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_any_template_opens_one_thought_or_none(family):
    compiled = template(source(family))
    system = "" if family == "gemma2" else SYSTEM.strip()
    for thinking in (True, False):
        prompt = compiled.prompt(system, USER, thinking=thinking)
        header = prompt.rpartition(USER)[2]
        if thinking:
            assert header.endswith("<think>\n")
            assert header.count("<think>") == 1 and "</think>" not in header
        else:
            assert header.count("<think>") <= header.count("</think>")
            assert not header.rstrip().endswith("<think>")


@pytest.mark.parametrize(
    ("header", "with_thought", "without"),
    [
        ("<a>\n", "<a>\n<think>\n", "<a>\n"),
        ("<a><think>\n", "<a><think>\n", "<a>"),
        ("<a>\n<think>", "<a>\n<think>\n", "<a>\n"),
        # A model that has been taught to see an empty thought before it answers at once still does.
        ("<a>\n<think>\n\n</think>\n\n", "<a>\n<think>\n", "<a>\n<think>\n\n</think>\n\n"),
        ("<a></think>", "<a><think>\n", "<a></think>"),
    ],
)
def test_the_thought_is_opened_once_whatever_the_template_ends_in(header, with_thought, without):
    compiled = template("{{ messages[0].content }}" + header.replace("\n", "{{ '\\n' }}"))
    # A thought in the user's own text is not the prompt's.
    for user in ("Why?", "Write <think>", "<think>\n</think>"):
        assert compiled.prompt("", user, thinking=True) == user + with_thought
        assert compiled.prompt("", user, thinking=False) == user + without


@pytest.mark.parametrize("user", ["think", ">", "<think>", "a", "s", "<s>"])
def test_a_users_text_that_the_header_repeats_opens_one_thought(user):
    opens = "{% if add_generation_prompt %}<a><think>{{ '\\n' }}{% endif %}"
    compiled = template("<s>{{ messages[0].content }}</s>" + opens)
    turn = f"<s>{user}</s><a>"
    assert compiled.prompt("", user, thinking=True) == f"{turn}<think>\n"
    assert compiled.prompt("", user, thinking=False) == turn


def test_a_template_may_leave_tokens_that_the_model_lacks_undefined():
    text = "{{ bos_token is defined }} {{ pad_token is defined }}{{ messages[0].content }}"
    compiled = ChatTemplate(text, {"pad_token": "<|pad|>"})
    assert compiled.prompt("", "?", thinking=False) == "False True?"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for m in messages %}", r"line 1: Unexpected end of template"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ messages[1].content | upper }}", "does not write the user's text as it is"),
        ("{{ messages.append(1) }}", "not callable|unsafe|not safely"),
        ("{{ ''.__class__ }}{{ ''.__class__.mro() }}", "unsafe"),
    ],
)
def test_a_broken_template_is_refused_by_its_reason(text, reason):
    message = (
        rf"the chat template can't be used \(.*({reason}).*\); mend it in chat_template\.jinja"
    )
    with pytest.raises(TaskInputError, match=message):
        template(text).prompt("Be brief.", "Who?", thinking=True)


def test_a_template_that_strips_the_users_text_says_what_to_do():
    with pytest.raises(
        TaskInputError, match=r"strips the user's text.*; give a text without white"
    ):
        template(source("llama3_2")).prompt("", "Who? \n", thinking=True)


def test_a_template_may_refuse_a_system_prompt():
    with pytest.raises(TaskInputError, match=r"no system turns here; if .*system_prompt = 'none'"):
        template(source("gemma2")).prompt("Be brief.", "Who?", thinking=True)
