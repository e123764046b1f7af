"""The chat template of an export: a served model gets the prompt that it was trained on."""

import re
from collections.abc import Iterator

from recallm_jax.runtime.errors import UserError
from tasks.prompts.vocabulary import Tokenizer

# The two usual variables by which a server switches the thought off.
_SWITCHES = ("enable_thinking", "thinking")
_ON = " and ".join(f"({name} is not defined or {name})" for name in _SWITCHES)
# Signs such as `+%}` keep the white space of the template beside them.
_CHOICE = "{%- if NAME is not defined %}{% set NAME = VALUE %}{% endif +%}"
_QUESTION = [{"role": "user", "content": "Where is the key?"}]


def served_template(tokenizer: Tokenizer, *, thinking: bool) -> str:
    """Return a chat template whose prompts are those of training (`Tokenizer.chat_prompt`).

    In training `chat_prompt` opens the thought, whatever the tokenizer's template writes. The
    returned template opens it itself, once, unless a server switches it off by `enable_thinking`.

    Args:
      thinking: whether the prompts of training open a thought.

    Raises:
      UserError: the template can't be made to write the prompts of training.
      TaskInputError: the template fails on a question.
    """
    wanted = tokenizer.chat_prompt("", _QUESTION[0]["content"], thinking=thinking)
    for template in _candidates(tokenizer, wanted, thinking):
        if tokenizer.with_template(template).render(_QUESTION) == wanted:
            return template
    raise UserError(
        f"the chat template can't be made to end a prompt in {wanted[-20:]!r}, as training does; "
        "correct what it writes where add_generation_prompt is set"
    )


def _candidates(tokenizer: Tokenizer, wanted: str, thinking: bool) -> Iterator[str]:
    """Yield templates from the simplest to one that edits the whole of what the first writes."""
    template = tokenizer.chat_template
    value = str(thinking).lower()
    chosen = "".join(_CHOICE.replace("NAME", n).replace("VALUE", value) for n in _SWITCHES)
    yield from (template, chosen + template)
    written = tokenizer.render(_QUESTION)
    pairs = enumerate(zip(written, wanted, strict=False))
    shorter = min(len(written), len(wanted))
    same = next((place for place, (one, other) in pairs if one != other), shorter)
    # Jinja drops the newline at the end of a template, but not in the middle.
    body = re.sub(r"(\r\n|\r|\n)\Z", "", template)
    condition = f"add_generation_prompt and {_ON}" if thinking else "add_generation_prompt"
    ending = _literal(wanted[same:])
    if same == len(written):
        yield f"{body}{{{{ {ending} if {condition} else '' }}}}"
    else:
        cut = f"prompt[:-{len(written) - same}] ~ {ending}"
        yield f"{{% set prompt +%}}{body}{{%+ endset %}}{{{{ {cut} if {condition} else prompt }}}}"


def _literal(text: str) -> str:
    """Return a text as Jinja writes it in a template."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
