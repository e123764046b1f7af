"""HELMET's prompts: the user's text around a context that is cut at its end to fit."""

import dataclasses
import functools
import unicodedata
from collections.abc import Callable

import numpy as np

from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Example, Prompted
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.tokenised import tokenised
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.helmet.selection import Item

CHAT_SYSTEM = "You are a helpful assistant."
OMITTED = " ... [the rest of the text is omitted]"
# How many characters of a long text are first tokenised for each token that is needed.
_CHARACTERS_A_TOKEN = 8

PLAIN, CHAT, RECALL = "plain", "chat", "recall"


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of a prompt.

    Attributes:
      kind: "plain" (user's text, `joint`, lead-in), "chat" (the benchmark's system message) or
        "recall" (the system prompt of the settings; the user's text ends in `request`; a thought is
        opened unless the settings have none).
      budget: the most tokens that the prompt may have.
    """

    kind: str
    budget: int
    joint: str = "\n"
    request: str = ""


def to_record(
    item: Item, form: Form, name: str, dataset: str, tokenizer: Tokenizer, settings: TaskSettings
) -> Record:
    """Make the record of an item, with a prompt that fits.

    Args:
      name: the name of the example.
      settings: say where spans may open and close, and what the recall form begins and ends with.

    Raises:
      UnfitRowError: the prompt is too long even without its context.
    """
    item = dataclasses.replace(
        item,
        before=_composed(item.before),
        context=_composed(item.context),
        after=_composed(item.after),
    )
    written = functools.partial(
        prompt, item, form=form, name=name, tokenizer=tokenizer, settings=settings
    )

    def count_tokens(context: str) -> int:
        _, user, text = written(context)
        start = text.rindex(user)
        return len(tokenizer.encode_quoting(text, (start, start + len(user))))

    context = cut_to_fit(item.context, count_tokens, form.budget, tokenizer)
    system, user, text = written(context)
    start = len(item.before)
    example = Example(
        system=system,
        user=user,
        documents=((start, start + len(context)),),
        gold=(),
        truth=item.truth,
        question_id=item.question_id,
    )
    unused = np.random.default_rng(0)  # There is no demonstration to draw.
    return tokenised(name, dataset, Prompted(example, text), tokenizer, settings, unused)


def _composed(text: str) -> str:
    """Return a text in Unicode's form NFC, which no tokenizer changes."""
    return unicodedata.normalize("NFC", text)


def prompt(
    item: Item,
    context: str,
    form: Form,
    name: str,
    tokenizer: Tokenizer,
    settings: TaskSettings,
) -> tuple[str, str, str]:
    """Return the system prompt ("" in the plain form), the user's text and the whole prompt."""
    user = item.before + context + item.after
    if form.kind == PLAIN:
        return "", user, user + form.joint + item.lead_in
    if form.kind == CHAT:
        return CHAT_SYSTEM, user, tokenizer.chat_prompt(CHAT_SYSTEM, user, thinking=False)
    system = settings.system_prompt(SYSTEMS[sum(name.encode()) % len(SYSTEMS)])
    user += f"\n\n{form.request}"
    return system, user, tokenizer.chat_prompt(system, user, thinking=settings.thinking)


def cut_to_fit(
    context: str, count_tokens: Callable[[str], int], budget: int, tokenizer: Tokenizer
) -> str:
    """Return the context, cut at its end between two tokens so that its prompt fits.

    Args:
      count_tokens: counts the tokens of the prompt with a context.

    Raises:
      UnfitRowError: nothing of the context would be left.
    """
    excess = count_tokens(context) - budget
    if excess <= 0:
        return context
    _, offsets = tokenizer.encode_with_offsets(context)
    keep = len(offsets) - excess
    while keep > 0:
        shorter = context[: offsets[keep - 1][1]]
        # The cut may change how its edge is split into tokens; then more tokens have to go.
        excess = count_tokens(shorter) - budget
        if excess <= 0:
            return shorter
        keep -= excess
    raise UnfitRowError(
        f"its question and demonstrations alone exceed the {budget} tokens of a prompt"
    )


def omit_the_rest(text: str, most: int, tokenizer: Tokenizer) -> str:
    """Return a text of at most `most` tokens: the whole text, or its beginning and a remark.

    The benchmark counts Llama 2's tokens, this function the policy's own.
    """
    postfix = len(tokenizer.encode(OMITTED))
    if postfix >= most:
        raise TaskInputError(f"a text of {most} tokens leaves no room for {OMITTED!r}")
    _, ends = _first_tokens(text, most + 1, tokenizer)
    if len(ends) <= most:
        return text
    return text[: ends[most - postfix - 1]] + OMITTED


def has_tokens(text: str, least: int, tokenizer: Tokenizer) -> bool:
    """Return whether a text has at least `least` tokens."""
    # A token has at least one byte.
    if len(text.encode()) < least:
        return False
    return len(_first_tokens(text, least, tokenizer)[1]) >= least


def _first_tokens(text: str, wanted: int, tokenizer: Tokenizer) -> tuple[str, np.ndarray]:
    """Return a beginning of a text with `wanted` tokens or all of it, and the tokens' ends."""
    size = _CHARACTERS_A_TOKEN * wanted
    while True:
        part = text[:size]
        ends = tokenizer.encode_with_offsets(part)[1][:, 1]
        if len(ends) >= wanted or size >= len(text):
            return part, ends
        size *= 2
