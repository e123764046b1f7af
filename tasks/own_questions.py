"""Category `own`: a user's own questions, on whole documents or on passages (`own_questions`).

A row of JSONL has `question`, `answers` (aliases of one answer, or `answer` alone) and one of

* `document`: a text that is shown whole, as it is written, and `evidence`: verbatim quotes from it
  that lead to the answer, in the order of the reasoning. Without quotes the sentence that holds an
  answer counts, of several the one with most of the question's words;
* `passages`: objects with `title`, `text` and, where it is known, `gold`: whether the passage leads
  to the answer. Without that the first that holds an answer does. Distractors fill the prompt.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.context import Demonstration, Draft, Example, Range, around, generator, question_place
from tasks.corpus import corpus_of, words
from tasks.demonstrations import recalled_in_turn
from tasks.errors import UnfitRowError
from tasks.passages import (
    MAX_QUESTION,
    Passage,
    clean,
    holds,
    needles,
    places,
    read_answers,
    read_passage,
    sentences,
    support,
)
from tasks.questions import CONCLUSIONS, Evidence, Question, question_draft
from tasks.settings import TaskSettings
from tasks.sources import Source, list_field, pick, plain_text, read_table
from tasks.system_prompts import SYSTEMS

DATASET = "own_questions"
MAX_DOCUMENT, MAX_QUOTES, MAX_PASSAGES = 10_000_000, 50, 1_000

INTRODUCTIONS = (
    "Here is a document.",
    "Read this document.",
    "The question is about this text:",
    "Below stands a text.",
)
WORDINGS = (
    "Question: {question}\nFind the answer in the text and give it in a few words.",
    "Using the text, answer this question as briefly as you can: {question}",
    "What does the text say? {question} Answer with a name, a number or a short phrase.",
    "Here is what I want to know: {question}\nThe text tells it. Keep the answer short.",
)
BEGINNINGS = (
    "Let me see what the text says about this.",
    "I need the place in the text that bears on the question.",
    "First I look for what matters here.",
    "Where does the text tell this? I recall it.",
)
LINKS = (
    "That leads to another place.",
    "With this I need one more fact.",
    "Now the next piece.",
    "Something else is needed too.",
)
CLOSINGS = (
    "The text supports this.",
    "This is what the text says.",
    "I take this from the text above.",
    "The recalled text gives the answer.",
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """A question on a whole document.

    Attributes:
      answers: aliases of one answer.
      evidence: the ranges of the document's characters that lead to it, in order.
      passages: none; distractors are drawn from passages alone.
    """

    text: str
    answers: tuple[str, ...]
    document: str
    evidence: tuple[Range, ...]
    passages: tuple[Passage, ...] = ()


def parse(raw: Any) -> Reading | Question:
    """Return a row.

    Raises:
      UnfitRowError: it is malformed, or nothing in it leads to the answer.
    """
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is no object")
    text = clean(raw.get("question"), "question", most=MAX_QUESTION)
    answers = read_answers(raw.get("answers", raw.get("answer")))
    if ("document" in raw) == ("passages" in raw):
        raise UnfitRowError("not one of document and passages")
    if "document" not in raw:
        return _of_passages(raw, text, answers)
    document = plain_text(raw, "document", most=MAX_DOCUMENT)
    if raw.get("evidence"):
        quotes = list_field(raw, "evidence")[:MAX_QUOTES]
        evidence = tuple(_quoted(document, quote) for quote in quotes)
    else:
        evidence = (_sentence(document, text, answers),)
    return Reading(text, answers, document, evidence)


def _quoted(document: str, quote: Any) -> Range:
    """Return where a quote stands; line breaks and spaces count as equal."""
    parts = clean(quote, "evidence", most=MAX_DOCUMENT).split()
    found = re.search(r"\s+".join(map(re.escape, parts)), document)
    if found is None:
        raise UnfitRowError("evidence that is not in the document")
    return found.span()


def _sentence(document: str, question: str, answers: Sequence[str]) -> Range:
    """Return the sentence, within a line, that holds an answer and is most like the question."""
    found = places(document, answers)
    if not found:
        raise UnfitRowError("no evidence, and an answer that is not in the document")
    asked = set(words(question))

    def around_answer(place: Range) -> Range:
        low = document.rfind("\n", 0, place[0]) + 1
        high = document.find("\n", place[1])
        line = document[low : high if high >= 0 else len(document)]
        parts = [
            (low + a, low + b)
            for a, b in sentences(line)
            if low + a < place[1] and low + b > place[0]
        ]
        return parts[0][0], parts[-1][1]

    return max(
        dict.fromkeys(map(around_answer, found)),
        key=lambda part: len(asked & set(words(document[slice(*part)]))),
    )


def _of_passages(raw: Mapping, text: str, answers: tuple[str, ...]) -> Question:
    wanted = needles(answers)
    gold: list[Passage] = []
    others: list[Passage] = []
    values = [value for value in list_field(raw, "passages") if isinstance(value, Mapping)]
    for value in values[:MAX_PASSAGES]:
        is_gold = value.get("gold") is True
        try:
            passage = read_passage(value.get("title"), value.get("text"))
        except UnfitRowError:
            if is_gold:
                raise
            continue
        (gold if is_gold else others).append(passage)
    if not gold:
        gold = [passage for passage in others if holds(passage, wanted)][:1]
        others = [passage for passage in others if passage not in gold]
    if not gold:
        raise UnfitRowError("no passage is gold, or holds an answer")
    evidence = {passage.key: Evidence(passage, support(passage, answers)) for passage in gold}
    return Question(text, text, answers, tuple(evidence.values()), tuple(others))


SOURCE = Source(
    dataset=DATASET,
    files={
        "train": ("own_questions_train*.jsonl", "own_questions.jsonl"),
        "validation": ("own_questions_validation*.jsonl",),
    },
    where="rows of your own: docs/tasks.md says how they are written",
    parse=parse,
    key=lambda row: (row.text, _on(row)),
    # Questions on one document stay together.
    group=lambda row: _on(row),
)


def _on(row: Reading | Question) -> str:
    return row.document if isinstance(row, Reading) else row.evidence[0].passage.key


def own_questions(
    settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw one of the user's questions; a document too long for the target gives way to another."""
    row = pick(read_table(SOURCE, settings.data_dir, split).rows, stream, index, attempt)
    if isinstance(row, Question):
        return question_draft(DATASET, row, corpus_of(settings, (SOURCE,)), settings, stream, index)
    rng = generator(DATASET, stream, index)
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    question = WORDINGS[rng.integers(len(WORDINGS))].format(question=row.text)
    before, after = around(question, introduction, question_place(rng))
    start = len(before)
    evidence = [(start + low, start + high) for low, high in row.evidence]
    answer = next((alias for alias in row.answers if alias in row.document), row.answers[0])
    example = Example(
        system=system,
        user=before + row.document + after,
        documents=((start, start + len(row.document)),),
        gold=tuple(evidence),
        truth={"answers": list(row.answers)},
        demonstrate=functools.partial(_demonstrate, recalled=evidence, answer=answer),
    )
    return Draft(lambda _: example, most=0, from_row=True)


def _demonstrate(
    rng: np.random.Generator, *, recalled: Sequence[Range], answer: str
) -> Demonstration:
    thought = recalled_in_turn(rng, recalled, beginnings=BEGINNINGS, links=LINKS)
    thought.append(f"\n{CONCLUSIONS[rng.integers(len(CONCLUSIONS))].format(answer=answer)}")
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], answer)


DRAFTS = {DATASET: own_questions}
