"""Chat templates, rendered as transformers renders them, and the thought that a prompt opens."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from tasks.errors import TaskInputError

THINK, END_THINK = "<think>", "</think>"
# The day that templates get as today, because a prompt may not depend on when it is made. It is the
# day that Llama 3's templates write where no clock is at hand.
TODAY = datetime.datetime(2024, 7, 26)
_MEND = "mend it in chat_template.jinja, or under chat_template in tokenizer_config.json"
# A thought at the end of a text: opened, opened and closed, or only closed.
_THOUGHT = re.compile(rf"({THINK}\s*)?({END_THINK}\s*)?\Z")
_OPENED = re.compile(rf"({THINK}\s*)?\Z")


class ChatTemplate:
    """A compiled chat template with the special tokens that it may write."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        """Compile a template.

        Args:
          special_tokens: tokens by the names of their variables, such as "eos_token"; a template
            sees a variable that is left out as undefined.

        Raises:
          TaskInputError: the template is not valid Jinja.
        """
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise _broken(f"line {error.lineno}: {error.message}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        opens_turn: bool = True,
        thinking: bool | None = None,
    ) -> str:
        """Return a conversation as the template writes it.

        Args:
          messages: turns with "role" and "content".
          opens_turn: whether the header of a response follows (`add_generation_prompt`).
          thinking: what the template sees as `enable_thinking` (Qwen3, SmolLM3) and `thinking`
            (DeepSeek-V3.1); None leaves both undefined, as most servers do.

        Raises:
          TaskInputError: the template fails on this conversation.
        """
        switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        try:
            return self._template.render(
                messages=list(messages),
                # None, as in transformers, and not undefined: templates ask `tools is not none`.
                tools=None,
                documents=None,
                add_generation_prompt=opens_turn,
                **switches,
                **self._special_tokens,
            )
        except TaskInputError:
            raise
        except Exception as error:  # The template is foreign code: it may raise anything.
            raise _broken(str(error) or type(error).__name__) from None

    def prompt(self, system: str, user: str, *, thinking: bool) -> str:
        """Return a conversation of one turn, up to the response.

        The result ends in exactly one `<think>` and a line break if `thinking`, whatever the
        template itself writes there, and in no opened thought otherwise.

        Args:
          system: the system prompt; "" gives the template no such message.

        Raises:
          TaskInputError: the template fails on this conversation, or changes the user's text.
        """
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        rendered = self.render(messages, thinking=thinking)
        if user not in rendered:
            if user.strip() in rendered:
                raise TaskInputError(
                    "the chat template strips the user's text, which would shift its characters; "
                    "give a text without white space at its beginning and end"
                )
            raise _broken("it does not write the user's text as it is")
        turns = rendered
        if rendered.count(user) > 1:
            # A short text may also occur in the header of the response, as "think" does.
            closed = self.render(messages, opens_turn=False, thinking=thinking)
            turns = closed if user in closed and rendered.startswith(closed) else rendered
        end = turns.rindex(user) + len(user)
        return rendered[:end] + _with_thought(rendered[end:], thinking)


def _with_thought(header: str, thinking: bool) -> str:
    """Return the text after the user's turn with one opened thought at its end, or with none.

    Without a thought, an empty one that the template has closed stays: it is the model's own sign
    to answer at once.
    """
    found = (_THOUGHT if thinking else _OPENED).search(header)
    assert found is not None, "the pattern matches nothing at the end of every text"
    return header[: found.start()] + f"{THINK}\n" * thinking


def _environment() -> jinja2.Environment:
    """Return the environment that transformers gives to chat templates."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks a response; its content is rendered."""

    tags = {"generation"}  # noqa: RUF012, because Jinja declares it so.

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Return the block's content, in a scope of its own as in transformers."""
        line = next(parser.stream).lineno
        content = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(content, lineno=line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON; Jinja's own filter would escape characters of HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str):
    raise TaskInputError(
        f"the chat template refuses this conversation: {message}; if the model takes no system "
        "prompt, set config.data.system_prompt = 'none'"
    )


def _broken(reason: str) -> TaskInputError:
    return TaskInputError(f"the chat template can't be used ({reason}); {_MEND}")
