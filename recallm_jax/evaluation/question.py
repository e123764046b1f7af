"""A first look: one question about one document, answered with recall spans."""

import dataclasses
import re

import numpy as np
from ml_collections import ConfigDict

from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.policy import Policy
from decoding.sampling import Sampling, row_keys
from recallm_jax.config.rewards import evaluation_rewards
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.data.settings import task_settings
from recallm_jax.evaluation.rows import Answered, response_rows
from recallm_jax.evaluation.summaries import Row
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.runtime.errors import UserError
from rl.rollout_text import read_rollout
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.span_edges import span_flags
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.vocabulary import START_RECALL, Tokenizer

# Makes a model that does not know recall spans yet begin with one.
QUOTE_FIRST = f"The context says: {START_RECALL}"
# Python reads bytes of an argument that are not UTF-8 so.
_SURROGATE = re.compile("[\ud800-\udfff]")
# Prompts are padded to multiples of this, so that few sizes are compiled.
LENGTH_STEP = 64
EXAMPLE_DOCUMENT = """\
The lighthouse of Skerry Point was lit in 1874.
Its keeper was Ada Thorne, who kept the log until 1901.
The lamp burned 12 litres of colza oil a night.
"""
EXAMPLE_QUESTION = "How much oil did the lamp burn a night?"


def question_record(
    tokenizer: Tokenizer, document: str, question: str, settings: TaskSettings
) -> tuple[Record, int]:
    """Return the prompt of a question, and where in it the document begins.

    Only the document may be copied. Document and question stay text, whatever tokens they spell.

    Args:
      settings: give the system prompt, whether a thought is opened, and where spans may open.

    Returns:
      The record, and the place in its prompt of the document's first character. It is the place
      that this character would have if the prompt had the document's outer white space, too.

    Raises:
      UserError: the document or the question is empty or not valid Unicode, or no span can begin
        in the document.
    """
    if not question.strip():
        raise UserError("the question is empty; give one, such as --question='Who kept it?'")
    if not document.strip():
        raise UserError("the document is empty, so there is nothing to recall; give a text file")
    for name, text in (("document", document), ("question", question)):
        if broken := _SURROGATE.search(text):
            raise UserError(
                f"the {name} is not valid Unicode: its character {broken.start()} is "
                f"U+{ord(broken[0]):04X}, half of a character; give it in UTF-8"
            )
    outer = len(document) - len(document.lstrip())
    document = document.strip()
    user = f"{document}\n\n{question.strip()}"
    system = settings.system_prompt(SYSTEMS[0])
    prompt = tokenizer.chat_prompt(system, user, thinking=settings.thinking)
    shift = prompt.rindex(user)
    ids = tokenizer.encode_quoting(prompt, (shift, shift + len(user)))
    inputs, offsets = tokenizer.encode_with_offsets(prompt, ids)
    ranges = [(shift, shift + len(document))]
    flags = span_flags(tokenizer, prompt, inputs, offsets, ranges, settings.span_alignment)
    if not (flags[0] & flags[1]).any():
        raise UserError(
            f"no recall span can begin in the document {document[:40]!r}: the tokenizer joins its "
            "characters with those around it; give a longer document"
        )
    record = Record(
        "document/0",
        "retrieval",
        prompt,
        np.asarray(inputs, np.int32),
        offsets.astype(np.int32),
        *flags,
        targets=np.zeros(0, np.int32),
        ground_truth={},
    )
    return record, shift - outer


@dataclasses.dataclass(frozen=True)
class DocumentQuestion:
    """A question about a document.

    Attributes:
      quote_first: begin the response with a recall span, whatever the model would do.
    """

    document: str
    question: str
    quote_first: bool


def answer(
    config: ConfigDict,
    context: Context,
    policy: Policy,
    asked: DocumentQuestion,
    sampling: Sampling,
) -> Row:
    """Answer a question from a document; every recall span is a copy of part of it.

    Returns:
      A row as evaluation writes them, spans with their places in the prompt and, as
      `document_chars`, in the document.

    Raises:
      UserError: an empty document or question, or more than the model's context holds.
    """
    tokenizer, max_new_tokens = context.tokenizer, config.decoding.max_new_tokens
    settings = task_settings(config)
    record, start = question_record(tokenizer, asked.document, asked.question, settings)
    limit = policy.max_positions
    if len(record.inputs) + max_new_tokens > limit:
        raise UserError(
            f"the prompt has {len(record.inputs)} tokens and may be answered with "
            f"{max_new_tokens}; the model's context holds {limit}: shorten the document"
        )
    padded = -(-len(record.inputs) // LENGTH_STEP) * LENGTH_STEP
    prompts, (text,) = prompts_and_texts([record], min(padded, limit - max_new_tokens))
    prefix = np.asarray(tokenizer.encode(QUOTE_FIRST), np.int32)[None, None]
    limits = Limits(span_rules(config, tokenizer), max_new_tokens, tokenizer.end_ids)
    rollout = decode(
        for_rollout(policy),
        context.place(prompts),
        row_keys(config.seed, 0, np.zeros(1, np.uint32), 1),
        sampling=sampling,
        limits=limits,
        prefix=prefix if asked.quote_first else None,
    )
    read = read_rollout(rollout, limits, tokenizer.decode)
    (row,) = response_rows(Answered(record, text, read, 0), tokenizer, evaluation_rewards(config))
    for span in row["spans"]:
        for place in span["occurrences"]:
            place["document_chars"] = [character - start for character in place["chars"]]
    return row


def show(row: Row) -> str:
    """Return a response for the console: the text, and each span beside its place."""
    lines = [row["completion"].strip(), ""]
    for number, span in enumerate(row["spans"], 1):
        lines.append(f"  recall span {number}: {span['text']!r}")
        for place in span["occurrences"]:
            first, last = place["chars"]
            before = row["prompt"][max(0, first - 24) : first]
            after = row["prompt"][last : last + 24]
            copied = row["prompt"][first:last]
            low, high = place["document_chars"]
            lines.append(
                f"    characters {low} to {high} of the document: "
                + _in_a_line(f"…{before}[{copied}]{after}…")
            )
    if not row["spans"]:
        lines.append("  no recall span (a model learns to use them in the cold start)")
    return "\n".join(lines)


def _in_a_line(text: str) -> str:
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
