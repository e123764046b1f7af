"""Rows of the paper's release: its data set (RecaLLM-data) and its traces (RecaLLM-sft).

Data: a folder for each data set with Parquet files of the splits `train` and `val_4k` to
`val_128k`. A row has `prompt` (messages), `data_source`, `reward_model.ground_truth` {answer,
pos_docs, math_answer, neg_answer, relevance_grades} and `extra_info` {id, question, question_id}.

Traces: rows of `prompt` (messages) and `completion` (text), with recall spans between `<recall>`
and `</recall>` or between the recall tokens. Traces of one's own have the same layout.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.errors import TaskInputError, UnfitRowError
from tasks.names import length_name
from tasks.prompts.context import Example, Prompted, Range
from tasks.prompts.demonstrations import check_demonstration, gold_tokens
from tasks.prompts.record import Record, span_flags
from tasks.prompts.settings import TaskSettings
from tasks.prompts.tokenised import refuse_added, tokenised
from tasks.prompts.vocabulary import END_RECALL, START_RECALL, THINK, Tokenizer
from tasks.sources.table import find, read_rows, text_field

# The names of the validation splits by target length.
LENGTHS = (4096, 8192, 16_384, 32_768, 65_536, 98_304, 131_072)
_SPAN = re.compile(r"<recall>(.*?)</recall>|<\|start_recall\|>(.*?)<\|end_recall\|>", re.DOTALL)
_OPTION = re.compile(r"^\s*\(?([A-D])[).:]\s+(.+?)\s*$", re.MULTILINE)
_CITED = re.compile(r"\[(?:ID: ?)?(\d+)\]")
_LABEL = re.compile(r"label: ?\S.*$", re.MULTILINE)


@functools.lru_cache(maxsize=32)
def read_release(folder: str, dataset: str, split: str) -> tuple[Any, ...]:
    """Return the raw rows of a split.

    Raises:
      TaskInputError: there is no such file.
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
    return tuple(row for path in paths for row in read_rows(path))


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


def release_record(raw: Any, name: str, tokenizer: Tokenizer, settings: TaskSettings) -> Record:
    """Return the record of a row of the data set.

    All of the user's text may be copied, as in the release: its rows don't say where the context
    begins.

    Args:
      settings: `system` replaces the row's own system prompt.

    Raises:
      UnfitRowError: the row is malformed, too long, or a gold document is not in its prompt.
    """
    system, user = read_messages(raw.get("prompt") if isinstance(raw, Mapping) else None)
    refuse_added(user, tokenizer)
    dataset = text_field(raw, "data_source")
    truth = _ground_truth(raw)
    documents = _gold_documents(truth)
    gold: list[Range] = []
    for text in documents:
        start = user.find(text)
        if start < 0:
            raise UnfitRowError("a gold document that is not in its prompt")
        gold.append((start, start + len(text)))
    info = raw.get("extra_info")
    info = info if isinstance(info, Mapping) else {}
    example = Example(
        system=system if settings.system is None else settings.system,
        user=user,
        documents=((0, len(user)),),
        gold=tuple(gold),
        truth=_truth(dataset, truth, documents, user),
        question_id=str(info.get("question_id") or info.get("question") or ""),
    )
    prompt = tokenizer.chat_prompt(example.system, user, thinking=settings.thinking)
    record = tokenised(
        name, dataset, Prompted(example, prompt), tokenizer, settings, np.random.default_rng(0)
    )
    if len(record.inputs) > settings.target_length:
        raise UnfitRowError(
            f"the row takes {len(record.inputs)} tokens and target_length is "
            f"{settings.target_length}"
        )
    return record


def read_messages(value: Any) -> tuple[str, str]:
    """Return the system prompt, "" without one, and the user's text of a conversation.

    Raises:
      UnfitRowError: it is not one turn of a user, after at most one system prompt.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise UnfitRowError("a prompt that is not a list of messages") from None
    turns = value if isinstance(value, list) else []
    if not all(isinstance(turn, Mapping) for turn in turns):
        raise UnfitRowError("a prompt that is not a list of messages")
    roles = [turn.get("role") for turn in turns]
    if roles not in (["user"], ["system", "user"]):
        raise UnfitRowError("a prompt that is not a system prompt and one turn of a user")
    texts = [text_field(turn, "content", most=10_000_000) for turn in turns]
    return (texts[0] if len(texts) == 2 else ""), texts[-1]


def _ground_truth(raw: Any) -> Mapping[str, Any]:
    reward = raw.get("reward_model") if isinstance(raw, Mapping) else None
    truth = reward.get("ground_truth") if isinstance(reward, Mapping) else None
    if isinstance(truth, str):
        try:
            truth = json.loads(truth)
        except ValueError:
            truth = None
    if not isinstance(truth, Mapping):
        raise UnfitRowError("no ground_truth")
    return truth


def _gold_documents(truth: Mapping[str, Any]) -> list[str]:
    """Return the gold documents in the form that `text_field` gives the prompt."""
    documents = truth.get("pos_docs") or []
    if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
        raise UnfitRowError("pos_docs that is not a list of texts")
    return [unicodedata.normalize("NFC", text) for text in documents if text]


def _truth(
    dataset: str, truth: Mapping[str, Any], documents: Sequence[str], user: str
) -> dict[str, Any]:
    """Return the fields of our ground truth for a row of a data set."""
    answer = text_field(truth, "answer", most=100_000)
    build: Callable[..., dict[str, Any]] = _BUILD.get(dataset, _one_answer)
    found = build(answer, truth, documents, user)
    if not any(found["answers"]):
        raise UnfitRowError("no answer")
    if math := truth.get("math_answer"):
        found["math_answer"] = str(math)
    return found


def _one_answer(answer, truth, documents, user) -> dict[str, Any]:
    del truth, documents, user
    return {"answers": [answer]}


def _aliases(answer, truth, documents, user) -> dict[str, Any]:
    del truth, documents, user
    return {"answers": [alias for alias in answer.split("|||") if alias.strip()]}


def _winner(answer, truth, documents, user) -> dict[str, Any]:
    del truth, documents, user
    return {"answers": [answer, answer.split()[-1]]}


def _leaders(answer, truth, documents, user) -> dict[str, Any]:
    del truth, documents, user
    names = [name for name in answer.split("|||") if name.strip()]
    parts = [[name, name.split()[-1]] for name in names]
    return {"answers": [", ".join(names)], "parts": parts}


def _values(answer, truth, documents, user) -> dict[str, Any]:
    del documents, user
    values, wrong = answer.split(), str(truth.get("neg_answer") or "").split()
    return {"answers": [", ".join(values)], "parts": [[v] for v in values], "wrong": wrong}


def _label(answer, truth, documents, user) -> dict[str, Any]:
    del truth, user
    labels = [(found[-1] if (found := _LABEL.findall(text)) else "") for text in documents]
    return {"answers": [answer], "gold_labels": labels}


def _letter(answer, truth, documents, user) -> dict[str, Any]:
    del truth, documents
    options = dict(_OPTION.findall(user)[-4:])
    return {"answers": [answer], "choices": options if len(options) == 4 else {}}


def _ranking(answer, truth, documents, user) -> dict[str, Any]:
    del user
    try:
        grades = json.loads(truth.get("relevance_grades") or "")
        grades = {str(name): int(grade) for name, grade in grades.items()}
    except (ValueError, TypeError, AttributeError):
        raise UnfitRowError("no relevance_grades") from None
    return {"answers": [answer], "grades": grades, "gold_labels": _shown_ids(documents)}


def _cited(answer, truth, documents, user) -> dict[str, Any]:
    del truth
    try:
        listed = json.loads(answer)
    except ValueError:
        listed = None
    if not isinstance(listed, list):
        raise UnfitRowError("an answer that is not a list")
    parts = [[part] if isinstance(part, str) else part for part in listed]
    for part in parts:
        aliases = part if isinstance(part, list) else []
        if not aliases or not all(isinstance(alias, str) for alias in aliases):
            raise UnfitRowError("an answer that is not a list of names with their aliases")
    labels = _shown_ids(documents)
    gold = {label.strip("[]") for label in labels}
    ids = dict.fromkeys(_CITED.findall(user))
    return {
        "answers": [", ".join(part[0] for part in parts)],
        "parts": parts,
        "grades": {name: int(name in gold) for name in ids},
        "gold_labels": labels,
    }


def _shown_ids(documents: Sequence[str]) -> list[str]:
    """Return the label of each document as it is shown, such as "[3]" or "[ID: 3]"."""
    found = [_CITED.search(text) for text in documents]
    return [match[0] if match else "" for match in found]


_BUILD: Mapping[str, Callable[..., dict[str, Any]]] = {
    **dict.fromkeys(("hotpotqa", "musique", "2wikimultihopqa", "nq", "triviaqa"), _aliases),
    **dict.fromkeys(("banking77", "massive"), _label),
    **dict.fromkeys(("quality", "mcqa_math"), _letter),
    "majority_vote": _winner,
    "top_n_vote": _leaders,
    "multi_niah": _values,
    "msmarco_v2": _ranking,
    "qampari": _cited,
}


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
    system, user = read_messages(raw.get("prompt") if isinstance(raw, Mapping) else None)
    completion = raw.get("completion")
    if isinstance(completion, list) and len(completion) == 1:
        completion = completion[0].get("content") if isinstance(completion[0], Mapping) else None
    if not isinstance(completion, str) or not completion.strip():
        raise UnfitRowError("no completion")
    refuse_added(user, tokenizer)
    if settings.system is not None:
        system = settings.system
    prompt = tokenizer.chat_prompt(system, user, thinking=settings.thinking)
    ids, offsets = tokenizer.encode_with_offsets(prompt)
    inputs, shift = np.asarray(ids, np.int32), prompt.index(user)
    documents = [(shift, shift + len(user))]
    flags = span_flags(tokenizer, prompt, inputs, offsets, documents, settings.span_alignment)
    # In the form of the prompt, of which its spans are copies.
    text = unicodedata.normalize("NFC", completion).removeprefix(THINK).lstrip("\n")
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
    ended = tokenizer.find_added(text.replace(THINK, "").replace("</think>", ""))
    if ended:
        raise UnfitRowError(f"its completion holds the token {ended}")
    return tokenizer.encode(text)
