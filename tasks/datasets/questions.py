"""Questions with gold passages among distractors: the prompts of multi- and single-hop QA."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tasks.prompts.context import (
    Demonstration,
    Draft,
    Example,
    Range,
    around,
    generator,
    insert_at_depths,
    question_place,
)
from tasks.prompts.demonstrations import recalled_in_turn
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import answers
from tasks.scoring.answers import normalise
from tasks.scoring.reward import best_of, of_answer
from tasks.scoring.truth import GroundTruth
from tasks.sources.corpus import Corpus, draw_kind, in_order, take
from tasks.sources.passages import Passage, holds, needles, question_layout, render, support
from tasks.sources.passages import places as answer_places

INTRODUCTIONS = (
    "Here are passages from a reference work.",
    "The following texts were found in an encyclopedia; most of them do not matter here.",
    "Below you find a collection of passages.",
    "Read these passages.",
)
WORDINGS = (
    "Question: {question}\nFind the answer in the passages and give it in a few words.",
    "Using the passages, answer this question as briefly as you can: {question}",
    "What do the passages say? {question}\nAnswer with a name, a date or a short phrase.",
    "Here is what I want to know: {question}\nThe passages tell it. Keep the answer short.",
)
BEGINNINGS = (
    "Let me see what the passages say about this.",
    "I need the passages that bear on the question.",
    "First I look for the passage that matters.",
    "Which passage tells this? I recall it.",
)
LINKS = (
    "That leads to another passage.",
    "With this I need one more fact.",
    "Now the next piece.",
    "Something else is needed too.",
)
CONCLUSIONS = (
    "So the answer is {answer}.",
    "From this it follows: {answer}.",
    "That settles it: {answer}.",
    "Hence {answer}.",
)
CLOSINGS = (
    "The passages support this.",
    "This is what the passages say.",
    "I take this from the passages above.",
    "The recalled text gives the answer.",
)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A gold passage, and the range of its text to recall."""

    passage: Passage
    support: Range


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its gold passages.

    Attributes:
      answers: aliases of one answer.
      evidence: the gold passages in the order of the reasoning; empty if the data set has none.
      others: passages that come with the question and are not gold.
      pages: the titles of the pages that hold the evidence, if the data set names them alone.
    """

    name: str
    text: str
    answers: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    others: tuple[Passage, ...] = ()
    pages: tuple[str, ...] = ()

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages that come with the question."""
        return (*(item.passage for item in self.evidence), *self.others)


def question_draft(
    dataset: str, row: Question, corpus: Corpus, settings: TaskSettings, stream: int, index: int
) -> Draft:
    """Return the draft of a question about its gold passages among distractors.

    No distractor holds an answer or comes twice. If the corpus has too few, the prompt is shorter
    than the target length. All gold passages are in the prompt at any number of fillers.
    """
    rng = generator(dataset, stream, index)
    gold = [item.passage for item in row.evidence]
    parts = _parts(row)
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    question = WORDINGS[rng.integers(len(WORDINGS))].format(question=row.text)
    place = question_place(rng)
    depths = rng.random(len(gold)).tolist()
    wanted = needles(row.answers)
    layout = question_layout(rng, gold, wanted)
    kind = draw_kind(rng)
    distractors = take(
        in_order(corpus, kind, row.text, row.others, rng),
        lambda passage: holds(passage, wanted),
        gold,
        settings.target_length,
    )
    # The nearest are taken first, but their places are drawn.
    order = rng.random(len(distractors))
    before, after = around(question, introduction, place)
    recited = [
        Passage(passage.title if part is None else "", passage.text[slice(*(part or (0, None)))])
        for passage, part in zip(gold, parts, strict=True)
    ]
    answer = stated(row.answers, recited)
    named = needles([answer])
    answers_it = not named or any(holds(passage, named) for passage in recited)

    def example(num_fillers: int) -> Example:
        fillers = [distractors[i] for i in np.argsort(order[:num_fillers])]
        shown, places = insert_at_depths(fillers, gold, depths)
        document, ranges, heads = render(shown, layout, len(before))
        recalled, kept = [], []
        for part, number in zip(parts, places, strict=True):
            first, last = ranges[number]
            head = first + heads[number]
            low, high = (head + part[0], head + part[1]) if part else (first, last)
            recalled.append((low, high))
            found = answer_places(document[low - len(before) : high - len(before)], answer)
            kept += [(low + a, low + b) for a, b in found]
        return Example(
            system=system,
            user=before + document + after,
            documents=((len(before), len(before) + len(document)),),
            gold=tuple(ranges[number] for number in places),
            truth={"answers": list(row.answers), "wrong": rivals(row)},
            question_id=row.name,
            demonstrate=functools.partial(
                demonstrate, recalled=recalled, answer=answer, kept=tuple(kept)
            )
            if answers_it
            else None,
        )

    return Draft(example, most=len(distractors), from_row=True)


def rivals(row: Question) -> list[str]:
    """Return the titles between which a question asks to choose, apart from the answer's.

    They are those of its gold passages that it names, if one of them is the answer and it has "or".
    """
    answers = {normalise(answer) for answer in row.answers}
    titles = {normalise(item.passage.title): item.passage.title for item in row.evidence}
    if answers.isdisjoint(titles) or " or " not in row.text:
        return []
    asked = f" {normalise(row.text)} "
    return [
        title
        for name, title in titles.items()
        if name and name not in answers and f" {name} " in asked
    ]


def _parts(row: Question) -> list[Range | None]:
    """Return the range of each gold text to recall; None for the passage with its heading.

    If no support holds an answer, as where the data set names the sentence beside it, the last
    passage that does is recalled up to its sentence, or with its title if only that has it.
    """
    parts: list[Range | None] = [item.support for item in row.evidence]
    wanted = needles(row.answers)

    def says(text: str) -> bool:
        return holds(Passage("", text), wanted)

    if any(says(item.passage.text[slice(*item.support)]) for item in row.evidence):
        return parts
    for number, item in reversed(list(enumerate(row.evidence))):
        if says(item.passage.text):
            low, high = support(item.passage, row.answers)
            parts[number] = min(low, item.support[0]), max(high, item.support[1])
            return parts
    for number, item in reversed(list(enumerate(row.evidence))):
        if says(item.passage.title):
            parts[number] = None
            return parts
    return parts


def stated(answers: Sequence[str], gold: Sequence[Passage]) -> str:
    """Return the first alias that the passages have, unchanged or normalised, or the first one."""
    texts = [text for passage in gold for text in (passage.title, passage.text)]
    as_it_is = (answer for answer in answers if any(answer in text for text in texts))
    normalised = (answer for answer in answers if any(holds(p, needles([answer])) for p in gold))
    return next(as_it_is, next(normalised, answers[0]))


def demonstrate(
    rng: np.random.Generator, *, recalled: list[Range], answer: str, kept: tuple[Range, ...] = ()
) -> Demonstration:
    """Draw a demonstration: recall the support of each gold passage in turn, then answer."""
    thought = recalled_in_turn(rng, recalled, beginnings=BEGINNINGS, links=LINKS)
    thought.append(f"\n{CONCLUSIONS[rng.integers(len(CONCLUSIONS))].format(answer=answer)}")
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], answer, kept)


@of_answer
def reference(answer: str, truth: GroundTruth) -> float:
    """Return the best match with an accepted answer; naming another candidate scores 0."""
    return max(
        answers.matches_reference(answer, accepted, truth.wrong) for accepted in truth.answers
    )


alias = best_of(answers.is_equal_normalised)
REFERENCE_METRICS = {
    "exact_match": alias,
    "substring_match": reference,
    "f1": best_of(answers.token_f1),
}
