"""Questions about one document as a prompt that they share, and a prefix of each response."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from decoding.decode_loop import SAMPLED
from decoding.sampling import Sampling
from recallm_jax.answering.prompt import QUOTE_FIRST, DocumentPart, document_part, question_part
from recallm_jax.runtime.errors import UserError
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

# A document and a question.
Pair = tuple[str, str]
# Prefixes are padded to multiples of this, so that few sizes are compiled.
STEP = 64
GREEDY = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """How questions are answered.

    Attributes:
      max_new_tokens: the limit of a response; a span that is open there is cut.
      sampling: greedy by default. What is sampled depends on the seed, the document and the
        question, and on whether questions are asked together or one by one; on nothing else.
      quote_first: begin every response with a recall span, whatever the model would do.
    """

    max_new_tokens: int = 512
    sampling: Sampling = GREEDY
    seed: int = 0
    quote_first: bool = False


@dataclasses.dataclass(frozen=True)
class Form:
    """What the form of a prompt depends on.

    Attributes:
      settings: give the system prompt, whether a thought is opened, and where spans may open.
      shares: whether questions about a document share its part of the prompt. They can't if spans
        may copy from the response, because a question must not be copied.
      max_positions: the tokens that prompt and response may have together.
    """

    tokenizer: Tokenizer
    settings: TaskSettings
    shares: bool
    max_positions: int


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions about one document.

    Attributes:
      numbers: their places among all that are asked.
      prefixes: what the response to each begins with: the rest of the prompt, and a recall span if
        the options ask for one; padded with SAMPLED.
      skips: the tokens of each prefix that belong to the prompt.
      prompt_tokens: the tokens of the whole prompt of each question.
    """

    numbers: tuple[int, ...]
    part: DocumentPart
    prefixes: Int[np.ndarray, "G P"]
    skips: tuple[int, ...]
    prompt_tokens: tuple[int, ...]


def questions_about(
    form: Form, document: str, questions: Sequence[str], numbers: Sequence[int], options: Options
) -> Questions:
    """Return questions about a document; one alone if questions don't share its part.

    Raises:
      UserError: the document or a question is empty or not text, or they are too long.
    """
    tokenizer = form.tokenizer
    part = document_part(tokenizer, document, form.settings)
    rest = [question_part(tokenizer, document, one, form.settings) for one in questions]
    check_room(form, part, max(map(len, rest)), options)
    prompt_tokens = tuple(len(part.tokens) + len(ids) for ids in rest)
    if not form.shares:
        (ids,) = rest
        part, rest = _with_question(part, ids), [[]]
    quote = tokenizer.encode(QUOTE_FIRST) if options.quote_first else []
    width = max(STEP, -(-max(len(ids) + len(quote) for ids in rest) // STEP) * STEP)
    prefixes = np.full((len(rest), width), SAMPLED, np.int32)
    for row, ids in zip(prefixes, rest, strict=True):
        row[: len(ids) + len(quote)] = [*ids, *quote]
    return Questions(tuple(numbers), part, prefixes, tuple(map(len, rest)), prompt_tokens)


def grouped(
    form: Form, asked: Sequence[Pair], options: Options, *, most: int
) -> Iterator[Questions]:
    """Yield questions in groups of at most `most` about one document each.

    Raises:
      UserError: as for `questions_about`.
    """
    groups: dict[object, list[int]] = {}
    for number, (document, _) in enumerate(asked):
        groups.setdefault(document if form.shares else number, []).append(number)
    for numbers in groups.values():
        for first in range(0, len(numbers), most):
            some = numbers[first : first + most]
            questions = [asked[number][1] for number in some]
            yield questions_about(form, asked[some[0]][0], questions, some, options)


def check_room(form: Form, part: DocumentPart, question: int, options: Options) -> None:
    """Refuse a document that is too long beside a question of some tokens and its answer.

    Raises:
      UserError: says how long it is, and how long it may be.
    """
    taken = question + options.max_new_tokens
    taken += len(form.tokenizer.encode(QUOTE_FIRST)) if options.quote_first else 0
    size, room = len(part.tokens), form.max_positions - taken
    if size <= room:
        return
    if room < 1:
        raise UserError(
            f"the question and {options.max_new_tokens} tokens of answer take {taken} tokens, more "
            f"than the model's context of {form.max_positions}; shorten the question, or lower "
            "max_new_tokens"
        )
    characters = len(part.text) - part.before
    raise UserError(
        f"the document has {characters} characters, {size} tokens with the instructions; the "
        f"model's context of {form.max_positions} has room for {room}, beside the question and "
        f"{options.max_new_tokens} tokens of answer: shorten the document to about "
        f"{characters * room // size} characters, or lower max_new_tokens"
    )


def _with_question(part: DocumentPart, question: Sequence[int]) -> DocumentPart:
    def longer(flags: np.ndarray) -> np.ndarray:
        return np.pad(flags, (0, len(question)))

    return dataclasses.replace(
        part,
        tokens=np.concatenate([part.tokens, np.asarray(question, np.int32)]),
        copyable=longer(part.copyable),
        span_start=longer(part.span_start),
        span_end=longer(part.span_end),
    )
