"""Categories RAG and Re-rank: questions over passages, and rankings of passages.

Files:

* `kilt/{nq,triviaqa}-dev-multikilt_1000_k{n}_dep6.jsonl`, `kilt/hotpotqa-dev-…_dep3.jsonl`, and
  for demonstrations `…-train-multikilt_1000_k3_dep…`; `kilt/popqa_test_1000_k{n}_dep6.jsonl`, whose
  demonstrations are other questions of `…_k3_dep6`. Fields: `id` (nq has none), `question`,
  `answers`, `ctxs [{title, text}]`; popqa also has `s_pop`, and rows with log10 below 3 count.
* `msmarco/test_reranking_data_k{n}_dep3.jsonl`, demonstrations from `…_k10_dep3`: `qid, query,
  ctxs [{id, text, label, (title)}]`.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

from tasks.errors import TaskInputError, UnfitRowError
from tasks.sources.table import list_field, text_field
from tasks.suites.helmet.rows import (
    Rows,
    answers_field,
    check_row,
    find_file,
    open_rows,
    title_field,
    usable,
)
from tasks.suites.helmet.sampling import SHOTS, Key, draw_demos, draw_keys, shuffled
from tasks.suites.helmet.selection import Item, Selection
from tasks.suites.helmet.wording import Wording, wording

# The key of each row's question: "" if the question doesn't count, None if the row is malformed.
Keys = tuple[Key | None, ...]
# popqa's questions count if log10 of their monthly views is below this.
POPULARITY = 3.0
DEPTHS = {"nq": 6, "triviaqa": 6, "hotpotqa": 3, "popqa": 6}
QUESTION = (
    "Answer the question from the documents below, briefly and to the point. "
    "Give the answer in this form:\nAnswer: [answer]\n\n"
)
RANKING = (
    "Below are documents, each with its ID. Rank all of them by how relevant they are to the "
    "query, the most relevant first; leave none out. Give their IDs in this form:\n"
    "Ranking: ID3 > ID1 > ID2\n\n"
)


def kilt(selection: Selection) -> Iterator[Item]:
    """Yield the rows of all depths of the drawn questions, each after two demonstrations."""
    dataset = selection.dataset.removeprefix("kilt_").removesuffix("_3")
    test, train = (
        find_file(selection.dataset, selection.data_dir, names)
        for names in _kilt_files(dataset, selection.size)
    )
    rows, demos = open_rows(test), open_rows(train)
    words = wording(selection.dataset, selection.data_dir, Wording(QUESTION))
    popular = dataset == "popqa"
    keys, demo_keys = _question_keys(test, popular), _question_keys(train, popular)
    chosen = draw_keys(keys, selection.samples)

    def item(number: int, row: Any) -> Item:
        key = _known(keys[number])
        allowed = [_is_drawn(other) and not (popular and other == key) for other in demo_keys]
        shown = _demos(train, demos, demo_keys, key, allowed, _demo_question)
        return Item(
            key=f"{key}/{number}",
            before=words.instruction + shown,
            context=_passages(row),
            after=f"\n\nQuestion: {text_field(row, 'question')}",
            lead_in="Answer:",
            truth={"answers": answers_field(row, "answers")},
            question_id=str(key),
        )

    return _mixed_depths(test, rows, keys, chosen, item)


def _kilt_files(dataset: str, size: int) -> tuple[list[str], list[str]]:
    """Return the names of the test file and of the demonstrations' file."""
    if dataset == "popqa":
        test = train = "popqa_test_1000"
    else:
        test, train = (f"{dataset}-{split}-multikilt_1000" for split in ("dev", "train"))
    depth = DEPTHS[dataset]
    return [f"kilt/{test}_k{size}_dep{depth}.jsonl"], [f"kilt/{train}_k3_dep{depth}.jsonl"]


@functools.lru_cache(maxsize=16)
def _question_keys(path: str, popular: bool) -> Keys:
    return tuple(_question_key(row, popular) for row in open_rows(path))


def _question_key(row: Any, popular: bool) -> Key | None:
    if not isinstance(row, dict):
        return None
    if popular:
        views = row.get("s_pop")
        if not isinstance(views, int | float) or views <= 0:
            return None
        if math.log10(views) >= POPULARITY:
            return ""
    own = _key(row.get("id"))
    return _key(row.get("question")) if own is None else own


def _key(value: Any) -> Key | None:
    """Return a name as the file has it, a text or a whole number; None for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole or (isinstance(value, str) and value) else None


def _known(key: Key | None) -> Key:
    if not _is_drawn(key):
        raise UnfitRowError("no id or question, or no s_pop")
    return cast(Key, key)


def _is_drawn(key: Key | None) -> bool:
    """Return whether a row's question counts."""
    return key is not None and key != ""


def _demos(
    path: str,
    rows: Rows,
    keys: Keys,
    key: Key,
    allowed: list[bool],
    render: Callable[[Any], str],
) -> str:
    """Return the demonstrations of a question, each followed by an empty line."""
    numbers = draw_demos(keys, key, allowed)
    if len(numbers) < SHOTS:
        raise TaskInputError(
            f"{path} has fewer than {SHOTS} other questions to show; download it again"
        )
    shown = [rows[number] for number in numbers]
    try:
        for row in shown:
            check_row(row)
        return "".join(f"{render(row)}\n\n" for row in shown)
    except UnfitRowError as error:
        raise UnfitRowError(f"a demonstration with {error}") from None


def _demo_question(row: Any) -> str:
    answer = answers_field(row, "answers")[0]
    return f"{_passages(row)}\n\nQuestion: {text_field(row, 'question')}\nAnswer: {answer}"


def _passages(row: Any) -> str:
    passages = list_field(row, "ctxs")
    return "\n\n".join(
        f"Document (Title: {title_field(p)}): {text_field(p, 'text')}" for p in passages
    )


def msmarco(selection: Selection) -> Iterator[Item]:
    """Yield the rows of all depths of the drawn queries, each after two rankings."""
    test, shown = (
        find_file(
            selection.dataset,
            selection.data_dir,
            [f"msmarco/test_reranking_data_k{size}_dep3.jsonl"],
        )
        for size in (selection.size, 10)
    )
    rows, demos = open_rows(test), open_rows(shown)
    words = wording(selection.dataset, selection.data_dir, Wording(RANKING))
    keys, demo_keys = _query_ids(test), _query_ids(shown)
    chosen = draw_keys(keys, selection.samples)
    numbers = [number for number, key in enumerate(keys) if key in chosen]
    # With enough demonstrations, none has the query of any test row.
    apart = len(demo_keys) > 2 * len(numbers)

    def item(number: int, row: Any) -> Item:
        key = _known(keys[number])
        taken = chosen if apart else {key}
        allowed = [_is_drawn(other) and other not in taken for other in demo_keys]
        text, labels = _ranked(row)
        return Item(
            key=f"{key}/{number}",
            before=words.instruction + _demos(shown, demos, demo_keys, key, allowed, _demo_ranking),
            context=text,
            after=f"\n\nQuery: {text_field(row, 'query')}",
            lead_in="Ranking:",
            truth={"answers": [_best_first(labels)], "grades": labels},
            question_id=str(key),
        )

    return _mixed_depths(test, rows, keys, chosen, item)


def _mixed_depths(path: str, rows: Rows, keys: Keys, chosen: set[Key], item):
    """Yield the rows of the chosen questions, shuffled, so that the first few have all depths."""
    # Malformed rows are kept here, so that they are counted.
    numbers = [number for number, key in enumerate(keys) if key is None or key in chosen]
    mixed = [numbers[place] for place in shuffled(len(numbers))]
    return usable(path, ((number, rows[number]) for number in mixed), item)


@functools.lru_cache(maxsize=16)
def _query_ids(path: str) -> Keys:
    return tuple(_key(row.get("qid")) if isinstance(row, dict) else None for row in open_rows(path))


def _demo_ranking(row: Any) -> str:
    text, labels = _ranked(row)
    return f"{text}\n\nQuery: {text_field(row, 'query')}\nRanking: {_best_first(labels)}"


def _best_first(labels: dict[str, int]) -> str:
    return " > ".join(sorted(labels, key=lambda name: -labels[name]))


def _ranked(row: Any) -> tuple[str, dict[str, int]]:
    """Return the passages as one text, and their labels."""
    shown, labels = [], {}
    for passage in list_field(row, "ctxs"):
        text = text_field(passage, "text")
        name, label = passage.get("id"), passage.get("label")
        if not isinstance(name, str | int) or not isinstance(label, int):
            raise UnfitRowError("a passage without id and label")
        if str(name) in labels:
            raise UnfitRowError("two passages with one id")
        title = f" (Title: {title_field(passage)})" if "title" in passage else ""
        labels[str(name)] = label
        shown.append(f"[ID: {name}] Document{title}: {text}")
    return "\n\n".join(shown), labels
