"""Write what transformers renders from the chat templates beside this file.

Neither PyTorch nor transformers is a dependency of the project or its tests; run this in the
environment that `make_golden.py` describes:

    /tmp/golden/bin/python tests/golden/make_template_golden.py

Reads chat_templates/<family>.jinja, which use the constructs of the templates of that family, and
writes chat_templates.json: the versions, the day that templates take as today, the special tokens,
the conversations, and a text for each template, conversation and choice of options. A
conversation that the template refuses has `error`, its message, in the place of a text.
"""

import datetime
import json
import pathlib
from unittest import mock

import jinja2
import tokenizers
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).resolve().parent
TODAY = datetime.datetime(2024, 7, 26)
SPECIAL_TOKENS = {
    "bos_token": "<|begin|>",
    "eos_token": "<|end|>",
    "pad_token": "<|pad|>",
    "unk_token": "<|unknown|>",
}
SYSTEM = {"role": "system", "content": "Be <brief> & 'exact', naïvely.\n"}
USER = {"role": "user", "content": 'Which key?\n  {"17": "k4Qz9"}\n<b>&"é"</b> 日本 🙂'}
ASSISTANT = {"role": "assistant", "content": "<think>\nThe key of 17.\n</think>\n\nIt is k4Qz9. "}
AGAIN = {"role": "user", "content": "  And \t the key of 18, please?  "}
# `add_generation_prompt`, and `enable_thinking` and `thinking`; None leaves these undefined.
OPTIONS = ((True, True), (True, False), (True, None), (False, None))
CONVERSATIONS = {
    "user": [USER],
    "system and user": [SYSTEM, USER],
    "three turns": [USER, ASSISTANT, AGAIN],
    "system and three turns": [SYSTEM, USER, ASSISTANT, AGAIN],
    "two users": [SYSTEM, USER, AGAIN],
}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate(SPECIAL_TOKENS.values())}
    model = tokenizers.models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model), **SPECIAL_TOKENS)


def rendered(
    template: str, messages: list[dict[str, str]], opens_turn: bool, thinking: bool | None
) -> dict[str, str]:
    switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    try:
        text = tokenizer().apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=opens_turn,
            **switches,
        )
    except jinja2.TemplateError as error:
        return {"error": str(error)}
    return {"text": text}


def main() -> None:
    cases = []
    with mock.patch.object(chat_template_utils, "datetime") as clock:
        clock.now.return_value = TODAY
        for path in sorted((HERE / "chat_templates").glob("*.jinja")):
            template = path.read_text(encoding="utf-8")
            for name, messages in CONVERSATIONS.items():
                for opens, thinking in OPTIONS:
                    case = {"template": path.stem, "conversation": name}
                    case |= {"opens_turn": opens, "thinking": thinking}
                    cases.append(case | rendered(template, messages, opens, thinking))
    content = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "today": TODAY.date().isoformat(),
        "special_tokens": SPECIAL_TOKENS,
        "conversations": CONVERSATIONS,
        "cases": cases,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (HERE / "chat_templates.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
