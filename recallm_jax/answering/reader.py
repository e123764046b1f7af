"""A reader: a loaded model that answers questions about documents and shows what it quotes.

    from recallm_jax.answering.load import load_reader

    reader = load_reader("runs/quickstart")
    for answer in reader.ask([(document, "Who kept the lamp?"), (document, "When was it lit?")]):
        print(answer.question, answer.answer, [span.places for span in answer.spans])

A document is read once for all questions about it: in decoding's terms it is a prompt. Questions
that come one by one are added to it (`decoding/open_prompts.py`), those that come together are
prefixes of its responses.
"""

import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from decoding.decode_loop import SAMPLED, Limits
from decoding.open_prompts import OpenPrompts, extended, go_on_from, open_prompts
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import RowSampling, Sampling, row_keys, stack_sampling
from decoding.scheduler import Request, decode_all
from decoding.span_copy import SpanRules
from recallm_jax.answering.answer import Answer, read_answer
from recallm_jax.answering.prompt import (
    QUOTE_FIRST,
    DocumentPart,
    document_part,
    question_part,
)
from recallm_jax.answering.questions import (
    GREEDY,
    STEP,
    Form,
    Options,
    Pair,
    Questions,
    check_room,
    grouped,
)
from recallm_jax.policy.context import Context
from tasks.prompts.settings import TaskSettings

# Questions about one document that are answered at the same time, and documents.
MOST_QUESTIONS, MOST_DOCUMENTS = 8, 4


@dataclasses.dataclass(frozen=True)
class Reader:
    """A model that answers questions about documents.

    Attributes:
      policy: laid out for decoding (`policy/rollout_layout.py`).
      settings: give the system prompt, whether a thought is opened, and where spans may open.
      options: those of questions that are asked without any.
    """

    context: Context
    policy: Policy
    settings: TaskSettings
    rules: SpanRules
    options: Options

    @property
    def form(self) -> Form:
        """What the form of prompts depends on."""
        shares = self.rules.copy_source == "prompt"
        return Form(self.context.tokenizer, self.settings, shares, self.policy.max_positions)

    def ask(self, questions: Iterable[Pair], options: Options | None = None) -> Iterator[Answer]:
        """Yield the answers to pairs of document and question as they are ready, in any order.

        `Answer.number` is the place of the pair. A document is read once for up to eight of its
        questions. All questions are looked at before the first one is answered.

        Raises:
          UserError: a document or a question is empty or not text, or they are longer than the
            model's context.
        """
        options = options or self.options
        asked = list(questions)
        groups = list(grouped(self.form, asked, options, most=MOST_QUESTIONS))
        if not groups:
            return
        # Few sizes, so that calls with other questions share programs.
        width = sizes(max(group.prefixes.shape[1] for group in groups))[-1]
        rows = _power_of_two(max(len(group.numbers) for group in groups))

        def request(group: Questions) -> Request:
            # Rows without a question answer the first one again, and end with it.
            which = [*range(len(group.numbers)), *[0] * (rows - len(group.numbers))]
            keys = _keys(options.seed, [asked[group.numbers[row]] for row in which])
            padding = ((0, 0), (0, width - group.prefixes.shape[1]))
            prefix = np.pad(group.prefixes[which], padding, constant_values=SAMPLED)
            part = group.part
            flags = (part.copyable, part.span_start, part.span_end)
            return Request(part.tokens, *flags, keys=keys, prefix=prefix)

        finished = decode_all(
            self.policy,
            map(request, groups),
            buckets=sizes(max(len(group.part.tokens) for group in groups)),
            num_slots=min(MOST_DOCUMENTS, _power_of_two(len(groups))),
            sampling=options.sampling,
            limits=self.limits(width, options),
            max_prefix=width,
        )
        for one in finished:
            yield from self.answers(one.rollout, groups[one.number], asked, options)

    def open(self, document: str, options: Options | None = None) -> "OpenDocument":
        """Read a document, for questions that come one by one.

        Args:
          options: those of the questions to come; a document that leaves them no room is refused.

        Raises:
          UserError: as for `ask`.
        """
        form = self.form
        part = document_part(form.tokenizer, document, form.settings)
        check_room(form, part, 0, options or self.options)
        return OpenDocument(self, document, part, self.opened(part, STEP))

    def opened(self, part: DocumentPart, room: int) -> OpenPrompts:
        """Run a document through the model, with room for so many tokens after it."""
        size = sizes(len(part.tokens) + room)[-1]

        def padded(values: np.ndarray) -> np.ndarray:
            return np.pad(values, (0, size - len(values)))[None]

        prompts = Prompts(
            tokens=padded(part.tokens),
            lengths=np.array([len(part.tokens)], np.int32),
            copyable=padded(part.copyable),
            span_start=padded(part.span_start),
            span_end=padded(part.span_end),
        )
        return open_prompts(self.policy, self.context.place(prompts))

    def limits(self, prefix: int, options: Options) -> Limits:
        """Return the limits of responses after prefixes of at most `prefix` tokens.

        They leave an answer, which is cut at its own limit, untouched: as long as there is room for
        a span, the mask doesn't depend on how much.
        """
        room = prefix + options.max_new_tokens + self.rules.min_length + 2
        # Few values, so that few programs are compiled; the cost follows what is decoded.
        return Limits(self.rules, sizes(room)[-1], self.context.tokenizer.end_ids)

    def answers(
        self, rollout: Rollout, group: Questions, asked: Sequence[Pair], options: Options
    ) -> Iterator[Answer]:
        """Yield the answers to a group's questions, as far as they are decoded."""
        tokens, lengths = jax.device_get((rollout.tokens, rollout.lengths))
        for row, number in enumerate(group.numbers):
            response = tokens[0, row, group.skips[row] : lengths[0, row]]
            yield read_answer(
                response.tolist(),
                self.context.tokenizer,
                number=number,
                asked=asked[number],
                prompt_tokens=group.prompt_tokens[row],
                limit=options.max_new_tokens,
            )


@dataclasses.dataclass(frozen=True)
class OpenDocument:
    """A document that the model has read, for questions that come one by one.

    Attributes:
      opened: the document's part of the prompt, with room for a question.
    """

    reader: Reader
    document: str
    part: DocumentPart
    opened: OpenPrompts

    def ask(self, question: str, options: Options | None = None) -> Answer:
        """Return the answer to a question.

        Raises:
          UserError: as for `Reader.ask`.
        """
        *_, answer = self.stream(question, options)
        return answer

    def stream(
        self, question: str, options: Options | None = None, *, every: int = 8
    ) -> Iterator[Answer]:
        """Yield the answer so far now and then, at last the whole one.

        Args:
          every: the most tokens between two answers.

        Raises:
          UserError: as for `Reader.ask`.
        """
        reader = self.reader
        options, form = options or reader.options, reader.form
        tokenizer = form.tokenizer
        ids = question_part(tokenizer, self.document, question, form.settings)
        check_room(form, self.part, len(ids), options)
        opened = self.opened
        if len(self.part.tokens) + len(ids) > opened.prompts.tokens.shape[1]:
            opened = reader.opened(self.part, len(ids))
        padded = np.zeros((1, sizes(len(ids))[-1]), np.int32)
        padded[0, : len(ids)] = ids
        counts = np.array([len(ids)], np.int32)
        asked = (self.document, question)
        quote = np.asarray(tokenizer.encode(QUOTE_FIRST), np.int32)[None, None]
        # Room for the usual answer, so that shorter ones share its programs.
        longest = max(options.max_new_tokens, reader.options.max_new_tokens)
        limits = reader.limits(quote.shape[2], dataclasses.replace(options, max_new_tokens=longest))
        rollouts = go_on_from(
            reader.policy,
            extended(reader.policy, opened, padded, counts),
            reader.context.place(_keys(options.seed, [asked])[None]),
            sampling=_settings(options.sampling),
            limits=limits,
            prefix=quote if options.quote_first else None,
            every=every,
        )
        for rollout in rollouts:
            tokens, lengths = jax.device_get((rollout.tokens, rollout.lengths))
            answer = read_answer(
                tokens[0, 0, : lengths[0, 0]].tolist(),
                tokenizer,
                number=0,
                asked=asked,
                prompt_tokens=len(self.part.tokens) + len(ids),
                limit=options.max_new_tokens,
            )
            yield answer
            # The limits leave some room after the answer's own.
            if answer.tokens == options.max_new_tokens:
                return


def sizes(longest: int) -> tuple[int, ...]:
    """Return the lengths, ascending, to one of which at most `longest` tokens are padded.

    They are few, so that few programs are compiled: 64, 96, 128, 192, and so on.
    """
    found = [STEP]
    while found[-1] < longest:
        power = 1 << (found[-1].bit_length() - 1)
        found.append(power + power // 2 if found[-1] == power else 2 * power)
    return tuple(found)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _settings(sampling: Sampling) -> Sampling | RowSampling:
    """Return settings that share few programs: greedy decoding has its own, all others have one."""
    if sampling.temperature == 0:
        # Which tokens are kept doesn't matter for the likeliest.
        sampling = dataclasses.replace(GREEDY, repetition_penalty=sampling.repetition_penalty)
    return sampling if sampling == GREEDY else stack_sampling([[sampling]])


def _keys(seed: int, asked: Sequence[Pair]) -> Key[Array, " G"]:
    """Return a key for each question, which depends on its document and its words alone."""
    numbers = [zlib.crc32(f"{document}\0{question}".encode()) for document, question in asked]
    return row_keys(seed, 0, np.array(numbers, np.uint32), 1)[:, 0]
