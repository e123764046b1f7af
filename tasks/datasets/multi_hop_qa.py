"""Category `multi_hop_qa`: HotpotQA, MuSiQue and 2WikiMultihopQA in their published layouts."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.datasets.dataset import Dataset
from tasks.datasets.questions import (
    REFERENCE_METRICS,
    Evidence,
    Question,
    alias,
    question_draft,
    reference,
)
from tasks.errors import UnfitRowError
from tasks.prompts.context import Draft, Range
from tasks.prompts.settings import TaskSettings
from tasks.scoring.answers import normalise
from tasks.scoring.reward import RewardRow
from tasks.sources.corpus import corpus_of
from tasks.sources.passages import (
    MAX_QUESTION,
    Passage,
    clean,
    holds,
    needles,
    read_answers,
    read_passage,
    support,
)
from tasks.sources.table import Source, list_field, pick, read_table

MAX_PARAGRAPHS, MAX_SENTENCES = 200, 500


def parse_context(raw: Any) -> Question:
    """Return a row in HotpotQA's layout, which 2WikiMultihopQA has too.

    Raises:
      UnfitRowError: the row is malformed, or no gold passage holds the answer.
    """
    facts = _facts(list_field(raw, "supporting_facts"))
    steps = list(facts)
    answers = read_answers(raw.get("answer"))
    evidence, others = [], []
    for paragraph in list_field(raw, "context")[:MAX_PARAGRAPHS]:
        title: Any = paragraph[0] if isinstance(paragraph, list) and paragraph else None
        numbers = facts.pop(title, None) if isinstance(title, str) else None
        try:
            passage, parts = _joined(paragraph)
        except UnfitRowError:
            if numbers is not None:
                raise
            continue
        if numbers is None:
            others.append(passage)
        else:
            gold = Evidence(passage, support(passage, answers, numbers, parts))
            evidence.append((steps.index(title), gold))
    if facts:
        raise UnfitRowError("a supporting fact without its paragraph")
    # The facts come in the order of the reasoning, if they have one; it ends in the answer.
    wanted = needles(answers)
    evidence.sort(key=lambda item: (holds(item[1].passage, wanted), item[0]))
    return _question(raw, "_id", answers, [item for _, item in evidence], others)


def _facts(values: list) -> dict[str, list[int]]:
    """Return the numbers of the supporting sentences by the title of their paragraph."""
    facts: dict[str, list[int]] = {}
    for value in values:
        if not (
            isinstance(value, list)
            and len(value) == 2
            and isinstance(value[0], str)
            and isinstance(value[1], int)
        ):
            raise UnfitRowError("malformed supporting_facts")
        facts.setdefault(value[0], []).append(value[1])
    return facts


def _joined(paragraph: Any) -> tuple[Passage, list[Range]]:
    """Return a paragraph [title, [sentences]], and the range of each sentence in its text."""
    if not (
        isinstance(paragraph, list)
        and len(paragraph) == 2
        and isinstance(paragraph[1], list)
        and all(isinstance(sentence, str) for sentence in paragraph[1])
    ):
        raise UnfitRowError("a malformed paragraph")
    passage = read_passage(paragraph[0], " ".join(paragraph[1][:MAX_SENTENCES]))
    ranges: list[Range] = []
    end = 0
    for sentence in paragraph[1][:MAX_SENTENCES]:
        # An empty sentence has the range of the one before, so that the others keep their numbers.
        text = clean(sentence, "sentence", most=len(sentence)) if sentence.strip() else ""
        start = end + bool(text and end)
        ranges.append((start, start + len(text)))
        end = start + len(text)
    if end != len(passage.text):
        raise UnfitRowError("sentences that do not join")
    return passage, ranges


def parse_musique(raw: Any) -> Question:
    """Return a row of MuSiQue-Ans.

    Raises:
      UnfitRowError: the row is malformed or unanswerable, or no gold passage holds the answer.
    """
    paragraphs = list_field(raw, "paragraphs")[:MAX_PARAGRAPHS]
    if raw.get("answerable") is False:
        raise UnfitRowError("not answerable")
    aliases = raw.get("answer_aliases")
    answers = read_answers([raw.get("answer"), *(aliases if isinstance(aliases, list) else ())])
    steps = _steps(raw.get("question_decomposition"))
    gold, others = [], []
    for paragraph in paragraphs:
        if not isinstance(paragraph, Mapping):
            continue
        supporting, number = paragraph.get("is_supporting") is True, paragraph.get("idx")
        try:
            passage = read_passage(paragraph.get("title"), paragraph.get("paragraph_text"))
        except UnfitRowError:
            if supporting:
                raise
            continue
        if not supporting:
            others.append(passage)
            continue
        step, found = steps.get(number, (len(steps), ())) if isinstance(number, int) else (0, ())
        gold.append((step, Evidence(passage, support(passage, found or answers))))
    gold.sort(key=lambda item: item[0])
    return _question(raw, "id", answers, [item for _, item in gold], others)


def _steps(values: Any) -> dict[int, tuple[int, tuple[str, ...]]]:
    """Return, for each paragraph, the number and the answers of the step that rests on it."""
    steps: dict[int, tuple[int, tuple[str, ...]]] = {}
    for number, value in enumerate(values if isinstance(values, list) else ()):
        place = value.get("paragraph_support_idx") if isinstance(value, Mapping) else None
        if isinstance(place, int):
            try:
                steps.setdefault(place, (number, read_answers(value.get("answer"))))
            except UnfitRowError:
                steps.setdefault(place, (number, ()))
    return steps


def _question(
    raw: Mapping,
    name: str,
    answers: tuple[str, ...],
    evidence: Sequence[Evidence],
    others: Sequence[Passage],
) -> Question:
    wanted = needles(answers)
    evidence = list({item.passage.key: item for item in evidence}.values())
    if not evidence:
        raise UnfitRowError("no gold passage")
    if wanted and not any(holds(item.passage, wanted) for item in evidence):
        raise UnfitRowError("an answer that is in no gold passage")
    return Question(
        clean(raw.get(name), name, most=MAX_QUESTION),
        clean(raw.get("question"), "question", most=MAX_QUESTION),
        answers,
        tuple(evidence),
        tuple(others),
    )


def _source(dataset: str, train: Sequence[str], validation: Sequence[str], where: str, parse):
    return Source(
        dataset=dataset,
        files={"train": train, "validation": validation},
        where=where,
        parse=parse,
        key=lambda row: row.name,
        asks=lambda row: normalise(row.text),
    )


SOURCES = {
    "hotpotqa": _source(
        "hotpotqa",
        ("hotpot_train_v1.1.json", "hotpotqa_train*.json"),
        ("hotpot_dev_distractor_v1.json", "hotpotqa_dev_distractor*.json"),
        "hotpotqa.github.io",
        parse_context,
    ),
    "musique": _source(
        "musique",
        ("musique_ans_v1.0_train.jsonl", "musique_train*.jsonl"),
        ("musique_ans_v1.0_dev.jsonl", "musique_dev*.jsonl"),
        "github.com/StonyBrookNLP/musique",
        parse_musique,
    ),
    "2wikimultihopqa": _source(
        "2wikimultihopqa",
        ("2wiki*/train.json", "2wikimultihopqa_train*.json"),
        ("2wiki*/dev.json", "2wikimultihopqa_dev*.json"),
        "github.com/Alab-NII/2wikimultihop",
        parse_context,
    ),
}


def multi_hop(
    dataset: str, settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw a question that needs several gold passages (arXiv 2604.09494, appendix B)."""
    rows = read_table(SOURCES[dataset], settings.data_dir, split).rows
    corpus = corpus_of(settings, tuple(SOURCES.values()))
    row = pick(rows, stream, index, attempt)
    return question_draft(dataset, row, corpus, settings, stream, index)


def _declared(name: str) -> Dataset:
    return Dataset(
        name=name,
        category="multi_hop_qa",
        draft=functools.partial(multi_hop, name),
        score=reference,
        exact_match=alias,
        metrics=REFERENCE_METRICS,
        reward=RewardRow(hit_threshold=0.4, min_span=7, gold_mode="standard", free_spans=4),
        source=SOURCES[name],
    )


HOTPOTQA, MUSIQUE = _declared("hotpotqa"), _declared("musique")
TWO_WIKI = _declared("2wikimultihopqa")
