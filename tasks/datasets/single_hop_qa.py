"""Category `single_hop_qa`: Natural Questions and TriviaQA, with or without passages of their own.

Rows come from DPR's files, which have passages; from the open versions, which have questions and
answers alone, so that the gold passage is found by distant supervision; or from files in SQuAD's
layout, whose questions were written about paragraphs, and which stand in for nq if it has no file.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
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
from tasks.sources.corpus import corpus_of, supporting
from tasks.sources.passages import (
    MAX_QUESTION,
    Passage,
    clean,
    holds,
    needles,
    read_answers,
    read_passage,
    read_passages,
    support,
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
    """Parse a row of DPR's files, of an open data set, or in SQuAD's flat layout.

    The evidence is empty if the row has no passage that holds an answer.

    Raises:
      UnfitRowError: the row is malformed or has no answer, or its SQuAD passage does not hold it.
    """
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is not an object")
    text = clean(raw.get("question"), "question", most=MAX_QUESTION)
    if "context" in raw:
        return _of_paragraph(raw, text)
    answers = read_answers(_answers(raw.get("answers", raw.get("answer"))))
    wanted = needles(answers)
    gold = next((p for p in read_passages(raw.get("positive_ctxs")) if holds(p, wanted)), None)
    hard = raw.get("hard_negative_ctxs")
    others = read_passages(hard[:MAX_NEGATIVES]) if isinstance(hard, list) else []
    return Question(text, text, answers, _evidence(gold, answers), tuple(others))


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
    if not holds(passage, needles(answers)):
        raise UnfitRowError("an answer that is in no gold passage")
    return Question(text, text, answers, _evidence(passage, answers))


def _evidence(passage: Passage | None, answers: tuple[str, ...]) -> tuple[Evidence, ...]:
    return (Evidence(passage, support(passage, answers)),) if passage else ()


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
            "NQ-open.train.jsonl*",
            "nq_open_train*.jsonl",
            *SQUAD.files["train"],
        ),
        (
            "biencoder-nq-dev.json*",
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
        ("biencoder-trivia-train.json*", "triviaqa_open_train*.jsonl"),
        ("biencoder-trivia-dev.json*", "triviaqa_open_dev*.jsonl", "triviaqa_open.jsonl"),
        "github.com/facebookresearch/DPR (biencoder-trivia-*.json)",
        "trivia_qa/unfiltered.nocontext",
    ),
}


@functools.lru_cache(maxsize=8)
def answered(dataset: str, settings: TaskSettings, split: str) -> tuple[Question, ...]:
    """Return the rows that have a gold passage, their own or one of the corpus.

    From the corpus it is the first of the question's hundred best BM25 passages that holds an
    answer. Rows without a gold passage are left out and counted.

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
            passage = supporting(corpus, row.text, needles(row.answers))
            row = dataclasses.replace(row, evidence=_evidence(passage, row.answers))
        if row.evidence:
            rows.append(row)
    missing = len(table.rows) - len(rows)
    if missing:
        logging.getLogger(__name__).warning(
            "%s %s: %d of %d rows left out: no passage of the corpus holds an answer",
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
