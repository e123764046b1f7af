"""Category `single_hop_qa`: Natural Questions and TriviaQA, with or without passages of their own.

Rows come from DPR's files, which have passages; from NQ's own, which mark a paragraph of a page;
from TriviaQA's "rc" form and KILT's files, which name pages; from the open versions, which have
questions and answers alone; or from files in SQuAD's layout, whose questions were written about
paragraphs, and which stand in for nq if it has no file. Where no passage is marked, one is gold
only if it supports the answer (`tasks/sources/evidence.py`).
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.datasets.dataset import Dataset
from tasks.datasets.multi_hop_qa import SOURCES as MULTI_HOP
from tasks.datasets.questions import (
    REFERENCE_METRICS,
    Evidence,
    Question,
    alias,
    question_draft,
    reference,
)
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Draft
from tasks.prompts.settings import TaskSettings
from tasks.scoring.answers import normalise
from tasks.scoring.reward import RewardRow
from tasks.sources.corpus import Corpus, corpus_of
from tasks.sources.evidence import find_evidence, most_alike, supported
from tasks.sources.passages import (
    MAX_QUESTION,
    Passage,
    clean,
    places,
    read_answers,
    read_passage,
    read_passages,
    support,
)
from tasks.sources.published_evidence import (
    is_long_answer,
    read_kilt,
    read_long_answer,
    read_pages,
)
from tasks.sources.table import Source, list_field, pick, read_rows, read_table

# DPR's rows have a hundred negatives; the nearest ones are the hard ones.
MAX_NEGATIVES = 30


def read_questions(path: str) -> Iterator[Any]:
    """Yield the raw rows of a file, one for each question of an article in SQuAD's layout."""
    for raw in read_rows(path):
        if isinstance(raw, Mapping) and isinstance(raw.get("paragraphs"), list):
            yield from _of_article(raw)
        else:
            yield raw


def _of_article(raw: Mapping) -> Iterator[Any]:
    """Yield the questions of an article in TFDS's flat layout of SQuAD."""
    title = raw.get("title")
    for paragraph in raw["paragraphs"]:
        questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(questions, list):
            yield UnfitRowError("a malformed paragraph")
            continue
        for question in questions:
            if not isinstance(question, Mapping):
                yield UnfitRowError("a row that is not an object")
                continue
            yield {**question, "title": title, "context": paragraph.get("context")}


def parse_question(raw: Any) -> Question:
    """Parse a row in any of the layouts above.

    The evidence is empty if no passage is marked, or the marked ones don't hold an answer.

    Raises:
      UnfitRowError: the row is malformed or has no answer, or its SQuAD passage does not hold it.
    """
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is not an object")
    if is_long_answer(raw):
        asked, answers, gold = read_long_answer(raw)
        text = clean(asked, "question", most=MAX_QUESTION)
        return Question(text, text, answers, _evidence(gold, answers))
    if "output" in raw:
        asked, answers, pages = read_kilt(raw)
        text = clean(asked, "question", most=MAX_QUESTION)
        return Question(text, text, answers, (), pages=pages)
    text = clean(raw.get("question"), "question", most=MAX_QUESTION)
    if "context" in raw:
        return _of_paragraph(raw, text)
    answers = read_answers(_answers(raw.get("answers", raw.get("answer"))))
    marked = read_passages(raw.get("positive_ctxs"))
    # Many of TriviaQA's only hold the answer, by chance.
    found = most_alike(text, answers, marked)
    hard = raw.get("hard_negative_ctxs")
    others = read_passages(hard[:MAX_NEGATIVES]) if isinstance(hard, list) else read_pages(raw)
    return Question(text, text, answers, (Evidence(*found),) if found else (), tuple(others))


def _answers(value: Any) -> Any:
    """Return the raw answer or list of answers; TFDS has TriviaQA's as an object."""
    if not isinstance(value, Mapping):
        return value
    aliases = value.get("aliases")
    return [value.get("value"), *(aliases if isinstance(aliases, list) else ())]


def _of_paragraph(raw: Mapping, text: str) -> Question:
    if raw.get("is_impossible") is True:
        raise UnfitRowError("not answerable")
    values = raw.get("answers")
    if isinstance(values, Mapping):  # TFDS has one object of lists.
        texts = values.get("text")
    else:
        texts = [
            value.get("text") for value in list_field(raw, "answers") if isinstance(value, Mapping)
        ]
    answers = read_answers(texts)
    title = raw.get("title")
    # SQuAD writes titles as file names.
    name = title.replace("_", " ") if isinstance(title, str) else title
    passage = read_passage(name, raw.get("context"))
    if not _says(passage, answers):
        raise UnfitRowError("an answer that is in no gold passage")
    return Question(text, text, answers, _evidence(passage, answers))


def _evidence(passage: Passage | None, answers: tuple[str, ...]) -> tuple[Evidence, ...]:
    if passage is None or not _says(passage, answers):
        return ()
    return (Evidence(passage, support(passage, answers)),)


def _says(passage: Passage, answers: Sequence[str]) -> bool:
    """Return whether a text, not only its title, has an answer: what is recalled must hold it."""
    return any(place for answer in answers for place in places(passage.text, answer))


def _source(
    dataset: str, train: tuple[str, ...], validation: tuple[str, ...], where: str, prepared: str
):
    return Source(
        dataset=dataset,
        files={"train": train, "validation": validation},
        where=where,
        parse=parse_question,
        key=lambda row: row.name,
        asks=lambda row: normalise(row.text),
        # Questions about one paragraph stay in one split.
        group=lambda row: row.evidence[0].passage.key if row.evidence else row.name,
        read=read_questions,
        tfds={split: (prepared, split) for split in ("train", "validation")},
    )


SQUAD = _source(
    "squad",
    ("train-v2.0.json", "squad_v2_train*.json"),
    ("dev-v2.0.json", "squad_v2_dev*.json"),
    "rajpurkar.github.io/SQuAD-explorer",
    "squad/v2.0",
)
SOURCES = {
    "nq": _source(
        "nq",
        (
            "biencoder-nq-train.json*",
            "*simplified-nq-train*.jsonl*",
            "natural_questions*train*.parquet",
            "nq-train-kilt.jsonl*",
            "NQ-open.train.jsonl*",
            "nq_open_train*.jsonl",
            *SQUAD.files["train"],
        ),
        (
            "biencoder-nq-dev.json*",
            "*nq-dev-all*.jsonl*",
            "natural_questions*validation*.parquet",
            "nq-dev-kilt.jsonl*",
            "NQ-open.dev.jsonl*",
            "nq_open_dev*.jsonl",
            *SQUAD.files["validation"],
        ),
        "github.com/facebookresearch/DPR (biencoder-nq-*.json) or "
        "github.com/google-research-datasets/natural-questions (nq_open)",
        "natural_questions_open",
    ),
    "triviaqa": _source(
        "triviaqa",
        (
            "biencoder-trivia-train.json*",
            "triviaqa_rc*train*.parquet",
            "triviaqa_open_train*.jsonl",
        ),
        (
            "biencoder-trivia-dev.json*",
            "triviaqa_rc*validation*.parquet",
            "triviaqa_open_dev*.jsonl",
            "triviaqa_open.jsonl",
        ),
        "github.com/facebookresearch/DPR (biencoder-trivia-*.json)",
        "trivia_qa/unfiltered.nocontext",
    ),
}


@functools.lru_cache(maxsize=8)
def answered(dataset: str, settings: TaskSettings, split: str) -> tuple[Question, ...]:
    """Return the rows that have a gold passage, their own or one of the corpus.

    From the corpus it is one that supports an answer (`tasks/sources/evidence.py`). Rows without a
    gold passage are left out and counted.

    Args:
      settings: as returned by `_files`, so that rows are looked up once for all target lengths.

    Raises:
      TaskInputError: the files are missing, or no row has a gold passage.
    """
    corpus = corpus_of(settings, _pooled(dataset))
    rows = []
    table = read_table(SOURCES[dataset], settings.data_dir, split)
    for row in table.rows:
        if not row.evidence:
            row = dataclasses.replace(row, evidence=_found(corpus, row))
        if row.evidence:
            rows.append(row)
    missing = len(table.rows) - len(rows)
    if missing:
        logging.getLogger(__name__).warning(
            "%s %s: %d of %d rows left out: no passage of the corpus supports an answer",
            dataset,
            split,
            missing,
            len(table.rows),
        )
    if not rows:
        raise TaskInputError(
            f"no passage of the corpus ({len(corpus.passages)}) answers any of the "
            f"{len(table.rows)} questions of {dataset} {split}; set config.data.corpus to a larger "
            "one, such as DPR's psgs_w100.tsv, or get files with passages "
            f"({SOURCES[dataset].where})"
        )
    return tuple(rows)


def _found(corpus: Corpus, row: Question) -> tuple[Evidence, ...]:
    named = [passage for title in row.pages for passage in corpus.titled(title)]
    found = find_evidence(corpus, row.text, row.answers, (*row.others, *named))
    if found is None:
        return ()
    passage, place = found
    return (Evidence(passage, supported(passage, row.answers, place)),)


def _pooled(dataset: str) -> tuple[Source, ...]:
    return (*MULTI_HOP.values(), SOURCES[dataset], SQUAD)


def _files(settings: TaskSettings) -> TaskSettings:
    """Return the settings with all fields but those of the files at fixed values."""
    return TaskSettings(target_length=0, data_dir=settings.data_dir, corpus=settings.corpus)


def single_hop(
    dataset: str, settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw a question with its answer in one gold passage (arXiv 2604.09494, appendix B)."""
    row = pick(answered(dataset, _files(settings), split), stream, index, attempt)
    corpus = corpus_of(settings, _pooled(dataset))
    return question_draft(dataset, row, corpus, settings, stream, index)


def _declared(name: str) -> Dataset:
    return Dataset(
        name=name,
        category="single_hop_qa",
        draft=functools.partial(single_hop, name),
        score=reference,
        exact_match=alias,
        metrics=REFERENCE_METRICS,
        reward=RewardRow(
            hit_threshold=0.4, min_span=7, gold_mode="top_k_gold", free_spans=2, top_k=1
        ),
        source=SOURCES[name],
    )


NQ, TRIVIAQA = _declared("nq"), _declared("triviaqa")
