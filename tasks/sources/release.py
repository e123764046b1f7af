"""Rows of the paper's release: its data set (RecaLLM-data) and its traces (RecaLLM-sft).

Data: a folder for each data set with Parquet files of the splits `train` and `val_4k` to
`val_128k`. A row has `prompt` (messages), `data_source`, `reward_model.ground_truth` {answer,
pos_docs, math_answer, neg_answer, relevance_grades} and `extra_info` {id, question, question_id,
settings}; `release_truth.py` reads what they say of right answers.

Traces: rows of `prompt` (messages) and `completion` (text), with recall spans between `<recall>`
and `</recall>` or between the recall tokens. Traces of one's own have the same layout.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.errors import TaskInputError, UnfitRowError
from tasks.names import length_name
from tasks.prompts.context import Example, Prompted
from tasks.prompts.demonstrations import check_demonstration, gold_tokens
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.span_edges import span_flags
from tasks.prompts.tokenised import refuse_added, tokenised
from tasks.prompts.vocabulary import END_RECALL, START_RECALL, THINK, Tokenizer
from tasks.sources.release_truth import ReleasedRow, parsed, parsed_object, truth_fields
from tasks.sources.table import find, read_rows, text_field

# The names of the validation splits by target length.
LENGTHS = (4096, 8192, 16_384, 32_768, 65_536, 98_304, 131_072)
# Data sets whose prompts are as long as they are.
FIXED_LENGTHS = {"dapo_math": (4096,), "mcqa_math": (4096,), "quality": (4096, 8192)}
# Data sets in which rows may ask the same words about different contexts.
_ASK_OF_CONTEXT = frozenset(
    ("retrieval", "multi_niah", "math_retrieval", "majority_vote", "top_n_vote", "quality")
)
_OTHER_NAMES = {"retrieval_math": "math_retrieval"}
_SPAN = re.compile(r"<recall>(.*?)</recall>|<\|start_recall\|>(.*?)<\|end_recall\|>", re.DOTALL)


def release_files(folder: str, dataset: str, split: str) -> list[str]:
    """Return the paths of the files of a split.

    Raises:
      TaskInputError: there is none.
    """
    patterns = [
        f"{dataset}/{split}*.parquet",
        f"{dataset}/{split}*.jsonl",
        f"*/{dataset}/{split}*.parquet",
    ]
    paths = find(folder, patterns)
    if not paths:
        raise TaskInputError(
            f"config.data.source = 'release:{folder}' has no {patterns[0]}; download RecaLLM-data "
            "whole, or set the data set's share to 0"
        )
    return paths


@functools.lru_cache(maxsize=32)
def read_release(folder: str, dataset: str, split: str) -> tuple[Any, ...]:
    """Return the raw rows of a split.

    Raises:
      TaskInputError: there is no such file, or it can't be read.
    """
    files = release_files(folder, dataset, split)
    return tuple(row for path in files for row in read_rows(path))


def has_split(dataset: str, length: int) -> bool:
    """Return whether a data set comes in a length of the release."""
    return length in FIXED_LENGTHS.get(dataset, (length,))


def longest_prompt(length: int) -> int:
    """Return the most tokens that a prompt of a validation split may have.

    The release counted in Qwen's tokens; in others its prompts may be an eighth longer. The longest
    split was made at 120,704 tokens and has room as it is.
    """
    return min(length + length // 8, LENGTHS[-1])


def validation_split(length: int) -> str:
    """Return the name of the validation split of a length.

    Raises:
      TaskInputError: the release has none.
    """
    if length not in LENGTHS:
        raise TaskInputError(
            f"the release has no prompts of {length} tokens; set config.evaluation.lengths to some "
            f"of {', '.join(map(str, LENGTHS))}"
        )
    return f"val_{length_name(length)}"


def release_record(
    raw: Any, dataset: str, name: str, tokenizer: Tokenizer, settings: TaskSettings
) -> Record:
    """Return the record of a row of a data set.

    All of the user's text may be copied, as in the release: its rows don't say where the context
    begins.

    Args:
      dataset: the data set in whose folder the row is.
      settings: `system` replaces the row's own system prompt.

    Raises:
      UnfitRowError: the row is malformed, too long, of another data set, or a gold document is not
        in its prompt.
    """
    system, user = _prompt(raw, tokenizer, settings)
    source = text_field(raw, "data_source")
    if _OTHER_NAMES.get(source, source) != dataset:
        raise UnfitRowError(f"a row of {source!r}, not of {dataset}")
    truth, info = _ground_truth(raw), _extra_info(raw)
    documents = _gold_documents(truth, user)
    starts = [user.index(text) for text in documents]
    row = ReleasedRow(
        truth=truth,
        settings=parsed_object(info.get("settings")),
        documents=documents,
        user=user,
        question=unicodedata.normalize("NFC", str(info.get("question") or "").strip()),
    )
    example = Example(
        system=system,
        user=user,
        documents=((0, len(user)),),
        gold=tuple((at, at + len(text)) for at, text in zip(starts, documents, strict=True)),
        truth=truth_fields(dataset, row),
        question_id=question_of(raw, dataset),
    )
    prompt = tokenizer.chat_prompt(example.system, user, thinking=settings.thinking)
    record = tokenised(
        name, dataset, Prompted(example, prompt), tokenizer, settings, np.random.default_rng(0)
    )
    if len(record.inputs) > settings.target_length:
        raise UnfitRowError(f"a prompt of more than {settings.target_length} tokens")
    return record


def _prompt(raw: Any, tokenizer: Tokenizer, settings: TaskSettings) -> tuple[str, str]:
    """Return the system prompt, the settings' if they have one, and the user's text of a row.

    Raises:
      UnfitRowError: the prompt is malformed, or holds a token that may not be in it.
    """
    system, user = read_messages(raw.get("prompt") if isinstance(raw, Mapping) else None)
    refuse_added(user, tokenizer)
    system = system if settings.system is None else settings.system
    if found := tokenizer.find_control(system):
        raise UnfitRowError(f"its system prompt holds the token {found}")
    return system, user


def read_messages(value: Any) -> tuple[str, str]:
    """Return the system prompt, "" without one, and the user's text of a conversation.

    Raises:
      UnfitRowError: it is not one turn of a user, after at most one system prompt.
    """
    turns = parsed(value)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise UnfitRowError("a prompt that is not a list of messages")
    roles = [turn.get("role") for turn in turns]
    if roles not in (["user"], ["system", "user"]):
        raise UnfitRowError("a prompt that is not a system prompt and one turn of a user")
    texts = [text_field(turn, "content", most=10_000_000) for turn in turns]
    return (texts[0] if len(texts) == 2 else ""), texts[-1]


def question_of(raw: Any, dataset: str) -> str:
    """Return what names the question of a row; "" if only the whole prompt does.

    All votes ask the same words, for example, about different contexts.
    """
    info = _extra_info(raw)
    asked = "" if dataset in _ASK_OF_CONTEXT else info.get("question")
    name = str(info.get("question_id") or asked or "")
    return name.encode(errors="replace").decode()


def _extra_info(raw: Any) -> Mapping[str, Any]:
    return parsed_object(raw.get("extra_info")) if isinstance(raw, Mapping) else {}


def _ground_truth(raw: Any) -> Mapping[str, Any]:
    reward = raw.get("reward_model") if isinstance(raw, Mapping) else None
    truth = parsed_object(reward.get("ground_truth")) if isinstance(reward, Mapping) else {}
    if not truth:
        raise UnfitRowError("no ground_truth")
    return truth


def _gold_documents(truth: Mapping[str, Any], user: str) -> list[str]:
    """Return the gold documents as they stand in the user's text, which has lost its outer blanks.

    Raises:
      UnfitRowError: one is not a text, or is not there.
    """
    documents = truth.get("pos_docs") or []
    if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
        raise UnfitRowError("pos_docs that is not a list of texts")
    documents = [unicodedata.normalize("NFC", text) for text in documents if text.strip()]
    documents = [text if text in user else text.strip() for text in documents]
    if not all(text in user for text in documents):
        raise UnfitRowError("a gold document that is not in its prompt")
    return documents


def trace_record(raw: Any, name: str, tokenizer: Tokenizer, settings: TaskSettings) -> Record:
    """Return the record of a trace, whose completion is the demonstration.

    A span's tokens are the prompt's own that cover the first place of its text, so that the span
    mask allows them; where the tokenizer has merged an edge with its neighbour, a span covers a few
    characters more than its text.

    Args:
      settings: `system` replaces the trace's own system prompt.

    Raises:
      UnfitRowError: the row is malformed, or the prompt does not hold the text of a span.
      DemonstrationError: a span is empty, too long, or can't be copied.
    """
    system, user = _prompt(raw, tokenizer, settings)
    turns = raw.get("completion")
    if isinstance(turns, list) and len(turns) == 1 and isinstance(turns[0], Mapping):
        raw = {"completion": turns[0].get("content")}
    # In the form of the prompt, of which its spans are copies.
    completion = text_field(raw, "completion", most=10_000_000)
    prompt = tokenizer.chat_prompt(system, user, thinking=settings.thinking)
    ids, offsets = tokenizer.encode_with_offsets(prompt)
    inputs, shift = np.asarray(ids, np.int32), prompt.rindex(user)
    documents = [(shift, shift + len(user))]
    flags = span_flags(tokenizer, prompt, inputs, offsets, documents, settings.span_alignment)
    text = completion.removeprefix(THINK).lstrip("\n")
    targets, end = [], 0
    for found in _SPAN.finditer(text):
        targets += _plain(text[end : found.start()], tokenizer)
        span = found[1] if found[1] is not None else found[2]
        place = prompt.find(span, shift) if span else -1
        if place < 0 or place + len(span) > shift + len(user):
            raise UnfitRowError("a span that its prompt does not hold")
        first, last = gold_tokens(offsets, flags[0], (place, place + len(span)))
        targets += [tokenizer.start_recall_id, *ids[first:last], tokenizer.end_recall_id]
        end = found.end()
    targets += [*_plain(text[end:], tokenizer), tokenizer.eos_id]
    record = Record(
        example_id=name,
        dataset="own_questions",
        prompt=prompt,
        inputs=inputs,
        offsets=offsets.astype(np.int32),
        copyable=flags[0],
        span_start=flags[1],
        span_end=flags[2],
        targets=np.asarray(targets, np.int32),
        ground_truth={},
    )
    check_demonstration(
        inputs,
        flags,
        record.targets,
        tokenizer,
        example_id=name,
        min_recall_length=settings.min_recall_length,
        max_recall_length=settings.max_recall_length,
    )
    return record


def _plain(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a text outside spans."""
    if START_RECALL in text or END_RECALL in text or "<recall>" in text or "</recall>" in text:
        raise UnfitRowError("a span that is not closed, or never began")
    if found := tokenizer.find_control(text):
        raise UnfitRowError(f"its completion holds the token {found}")
    return tokenizer.encode(text)
