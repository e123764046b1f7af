"""Category `citation_qa`: many answers, each with a document that holds it (dataset `qampari`)."""

import dataclasses
import functools
import math
import posixpath
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.datasets.multi_hop_qa import SOURCES as MULTI_HOP
from tasks.datasets.questions import stated
from tasks.errors import UnfitRowError
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
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import ids
from tasks.scoring.answers import normalise
from tasks.scoring.reward import RewardRow, RewardSettings, Score, of_answer
from tasks.scoring.truth import GroundTruth
from tasks.sources.corpus import corpus_of, draw_kind, in_order, take
from tasks.sources.evidence import asked_stems, num_shared
from tasks.sources.passages import (
    MAX_QUESTION,
    Layout,
    Passage,
    clean,
    holds,
    needles,
    read_answers,
    read_passage,
    read_passages,
    render,
)
from tasks.sources.table import Source, list_field, pick, read_table

PLACE_RATES = (0.2, 0.6, 0.2)
MAX_GOLD_SHARE = 0.7
MIN_DISTRACTORS = 80
MAX_PARTS, MAX_PROOFS = 1_000, 50
LAYOUT = Layout(
    lambda number, title: (
        f"Document [{number}](Title: {title}): " if title else f"Document [{number}]: "
    )
)
INTRODUCTIONS = (
    "Here are numbered documents.",
    "The documents below are excerpts of articles; each has its number in brackets.",
    "Below you find documents with their numbers.",
)
QUESTIONS = (
    "Question: {question}\nThere are several answers. Give all that the documents hold, separated "
    "by commas, each followed by the number of a document that says so: Answer: first [2], second "
    "[5]",
    "List every answer to this question that you find in the documents, and cite one document for "
    "each: {question}\nThe last line looks like Answer: one thing [4], another thing [1]",
    "{question}\nCollect all answers from the documents. Write one line, Answer: name [3], "
    "name [8], with the number of a supporting document behind each.",
    "Which answers do the documents give to this question? {question}\nPut them into one line, "
    "Answer: a [1], b [6], and cite a document by its number for every one.",
)
BEGINNINGS = (
    "I go through the documents and recall those that hold an answer.",
    "Let me find the documents that answer this.",
    "Several documents should hold an answer. I recall them.",
)
FOUND = (
    "This gives {answer} [{number}].",
    "So {answer} [{number}].",
    "It names {answer} [{number}].",
)
FURTHER = (
    "Further documents give {answers}.",
    "In the same way I find {answers}.",
    "Others hold {answers}.",
)
CLOSINGS = (
    "Each answer stands in the document that I cite.",
    "These are the answers in the documents.",
    "The documents support these answers.",
)
# The reward counts five citations; more spans would only cost span density.
RECALLED = 5


@dataclasses.dataclass(frozen=True)
class ManyAnswers:
    """A question with several answers.

    Attributes:
      answers: the aliases of each answer, even if no gold passage holds it.
      gold: the passages that hold an answer.
      others: passages that come with the question and hold no answer.
    """

    name: str
    text: str
    answers: tuple[tuple[str, ...], ...]
    gold: tuple[Passage, ...]
    others: tuple[Passage, ...]

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages that come with the question."""
        return (*self.gold, *self.others)


def parse_qampari(raw: Any) -> ManyAnswers:
    """Return a row of QAMPARI, in its own layout or in ALCE's.

    Raises:
      UnfitRowError: the row is malformed, or no passage holds an answer.
    """
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is not an object")
    if "answer_list" in raw:
        name, text = raw.get("qid"), raw.get("question_text")
        answers, candidates = _original(list_field(raw, "answer_list"))
    else:
        name, text = raw.get("id"), raw.get("question")
        answers = _each(list_field(raw, "answers")[:MAX_PARTS])
        candidates = read_passages(raw.get("docs"))
    text = clean(text, "question", most=MAX_QUESTION)
    if not answers:
        raise UnfitRowError("no answer")
    wanted = needles([alias for aliases in answers for alias in aliases])
    gold = tuple(passage for passage in candidates if holds(passage, wanted))
    if "answer_list" not in raw:
        gold = tuple(passage for passage in gold if _is_about(passage, text))
    if not gold:
        raise UnfitRowError("an answer that is in no passage")
    others = tuple(passage for passage in candidates if not holds(passage, wanted))
    return ManyAnswers(
        name if isinstance(name, str) and name else text, text, answers, gold, others
    )


def _is_about(passage: Passage, question: str) -> bool:
    """Return whether a passage has half of a question's words: others hold an answer by chance."""
    shared = num_shared(question, (), f"{passage.title} {passage.text}")
    return 2 * shared >= len(asked_stems(question))


def _each(values: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    """Return the aliases of each answer; malformed answers are left out."""
    found = []
    for value in values:
        try:
            found.append(read_answers(value))
        except UnfitRowError:
            continue
    return tuple(dict.fromkeys(found))


def _original(values: list) -> tuple[tuple[tuple[str, ...], ...], list[Passage]]:
    """Return the answers in QAMPARI's own layout, and the first proof of each that holds it."""
    answers: list[tuple[str, ...]] = []
    passages: dict[str, Passage] = {}
    for value in values[:MAX_PARTS]:
        if not isinstance(value, Mapping):
            continue
        aliases = value.get("aliases")
        try:
            names = read_answers(
                [value.get("answer_text"), *(aliases if isinstance(aliases, list) else ())]
            )
        except UnfitRowError:
            continue
        answers.append(names)
        proofs = value.get("proof")
        for proof in proofs[:MAX_PROOFS] if isinstance(proofs, list) else ():
            if not isinstance(proof, Mapping):
                continue
            try:
                passage = read_passage(_title(proof.get("found_in_url")), proof.get("proof_text"))
            except UnfitRowError:
                continue
            if holds(passage, needles(names)):
                passages.setdefault(passage.key, passage)
                break
    return tuple(dict.fromkeys(answers)), list(passages.values())


def _title(url: Any) -> str:
    """Return the title of a Wikipedia article from its address, or "" for another address."""
    if not isinstance(url, str):
        return ""
    name = posixpath.basename(url.partition("?")[0].partition("#")[0])
    return urllib.parse.unquote(name, errors="ignore").replace("_", " ")


SOURCE = Source(
    dataset="qampari",
    files={
        "train": ("*qampari*/train_data.jsonl*", "*qampari*train*.json*"),
        "validation": (
            "*qampari*/dev_data.jsonl*",
            "*qampari_eval*.json",
            "*/*qampari_eval*.json",
            "*qampari*dev*.json*",
        ),
    },
    where="samsam3232.github.io/qampari or ALCE's qampari_eval_gtr_top100.json "
    "(github.com/princeton-nlp/ALCE)",
    parse=parse_qampari,
    key=lambda row: row.name,
    asks=lambda row: normalise(row.text),
)


def qampari(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw a question with several answers in documents to cite (arXiv 2604.09494, appendix B).

    All gold documents are in the prompt at any length. At most 70 % of the documents are gold, so
    that every prompt has distractors, and no distractor holds an answer.

    Raises:
      UnfitRowError: there are too few distractors for the gold documents.
    """
    row = pick(read_table(SOURCE, settings.data_dir, split).rows, stream, index, attempt)
    corpus = corpus_of(settings, (*MULTI_HOP.values(), SOURCE))
    rng = generator("qampari", stream, index)
    wanted = needles([alias for aliases in row.answers for alias in aliases])
    distractors = take(
        in_order(corpus, draw_kind(rng), row.text, row.others, rng),
        lambda passage: holds(passage, wanted),
        row.gold,
        settings.target_length,
        MIN_DISTRACTORS,
    )
    least = math.ceil(len(row.gold) * (1 - MAX_GOLD_SHARE) / MAX_GOLD_SHARE - 1e-9)
    if len(distractors) < least:
        raise UnfitRowError(
            f"{len(row.gold)} gold documents and {len(distractors)} distractors; set "
            "config.data.corpus to a larger corpus"
        )
    order = rng.random(len(distractors))
    depths = rng.random(len(row.gold)).tolist()
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(question=row.text)
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    before, after = around(question, introduction, question_place(rng, PLACE_RATES))
    # The answers that are in the documents, each with the gold documents that hold it.
    held = [
        (aliases, places)
        for aliases in row.answers
        if (places := [i for i, p in enumerate(row.gold) if holds(p, needles(aliases))])
    ]
    cited = _cited(held)
    names = [stated(aliases, [row.gold[i]]) for (aliases, _), i in zip(held, cited, strict=True)]

    def example(num_fillers: int) -> Example:
        fillers = [distractors[i] for i in np.argsort(order[: least + num_fillers])]
        shown, places = insert_at_depths(fillers, row.gold, depths)
        document, ranges, _ = render(shown, LAYOUT, len(before))
        gold = set(places)
        return Example(
            system=system,
            user=before + document + after,
            documents=((len(before), len(before) + len(document)),),
            gold=tuple(ranges[place] for place in places),
            truth={
                "answers": [", ".join(names)],
                "parts": [list(aliases) for aliases, _ in held],
                "grades": {str(1 + place): int(place in gold) for place in range(len(shown))},
                "gold_labels": [f"[{1 + place}]" for place in places],
            },
            question_id=row.name,
            demonstrate=functools.partial(
                _demonstrate,
                found=[
                    (name, 1 + places[i], ranges[places[i]])
                    for name, i in zip(names, cited, strict=True)
                ],
            ),
        )

    return Draft(example, most=len(distractors) - least, from_row=True)


def _cited(held: Sequence[tuple[tuple[str, ...], list[int]]]) -> list[int]:
    """Return a gold document for each answer that holds it, a different one each if possible.

    Answers that are in few documents choose first.
    """
    cited: dict[int, int] = {}
    for number in sorted(range(len(held)), key=lambda number: len(held[number][1])):
        places = held[number][1]
        free = (place for place in places if place not in cited.values())
        cited[number] = next(free, places[0])
    return [cited[number] for number in range(len(held))]


def _demonstrate(rng: np.random.Generator, *, found: list[tuple[str, int, Range]]) -> Demonstration:
    """Draw a demonstration: recall some documents, name their answers, then list and cite all."""
    thought: list[str | Range] = [BEGINNINGS[rng.integers(len(BEGINNINGS))]]
    recalled: list[int] = []
    further = []
    for answer, number, document in found:
        if number in recalled or len(recalled) < RECALLED:
            if number not in recalled:
                recalled.append(number)
                thought += ["\n", document]
            sentence = FOUND[rng.integers(len(FOUND))].format(answer=answer, number=number)
            thought.append(f"\n{sentence}")
        else:
            further.append(f"{answer} [{number}]")
    if further:
        sentence = FURTHER[rng.integers(len(FURTHER))].format(answers=", ".join(further))
        thought.append(f"\n{sentence}")
    answer = ", ".join(f"{answer} [{number}]" for answer, number, _ in found)
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], answer)


def citation_f1(
    answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
) -> float:
    """Return the F1 of the cited documents, which weigh less if no span recalls them."""
    del settings
    return ids.citation_f1(answer, spans, truth.grades)


@of_answer
def answer_coverage(answer: str, truth: GroundTruth) -> float:
    """Return the share of the answers that the response gives, counted up to five."""
    return ids.answer_coverage(answer, truth.all_parts)


def cited_answers(
    cited: Callable[[str, Sequence[str], Mapping[str, int]], float],
    covered: Callable[[str, Sequence[Sequence[str]]], float],
) -> Score:
    """Return the mean of the scores of citations and of coverage, weighted by the settings.

    Args:
      cited: scores the citations, from the answer, the spans and the documents' grades.
      covered: returns the share of the answers that are given.
    """

    def score(
        answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
    ) -> float:
        weight, citations = settings.coverage_weight, cited(answer, spans, truth.grades)
        if not weight:
            return citations
        return (1 - weight) * citations + weight * covered(answer, truth.all_parts)

    return score


@of_answer
def citation_format(answer: str, truth: GroundTruth) -> float:
    """Return 1 if the answer cites at least one document as `[N]` and holds a letter or digit."""
    cited = any(name in truth.grades for name in ids.cited_ids(answer))
    return float(cited and any(map(str.isalnum, ids.without_citations(answer))))


QAMPARI = Dataset(
    name="qampari",
    category="citation_qa",
    draft=qampari,
    score=cited_answers(ids.citation_f1, ids.answer_coverage),
    metrics={"citation_f1": citation_f1, "answer_coverage": answer_coverage},
    reward=RewardRow(
        hit_threshold=0.7,
        min_span=7,
        gold_mode="top_k_gold",
        free_spans=4,
        top_k=5,
        task_format=citation_format,
    ),
    source=SOURCE,
)
