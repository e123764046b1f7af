"""Category `reranking`: rank passages by their relevance to a query (dataset `msmarco_v2`)."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.errors import UnfitRowError
from tasks.prompts.context import (
    Demonstration,
    Draft,
    Example,
    Range,
    around,
    generator,
    question_place,
)
from tasks.prompts.demonstrations import recalled_in_turn
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import ids
from tasks.scoring.answers import normalise
from tasks.scoring.reward import RewardRow, of_answer
from tasks.scoring.truth import GroundTruth
from tasks.sources.corpus import Corpus, draw_kind, in_order, pool_corpus, take
from tasks.sources.passages import MAX_QUESTION, Layout, Passage, clean, read_passage, render
from tasks.sources.table import Source, list_field, pick, read_table
from tasks.sources.trec_files import read_judgements

MAX_PASSAGES = 5_000
# The range of the share of relevant passages; the row may have fewer, but always has one.
RELEVANT_SHARE = (0.01, 0.10)
NEGATIVE_RATES = {"judged": 0.4, "bm25": 0.3, "random": 0.3}


def _titled(start: str):
    return lambda number, title: start.format(number) + (f"(Title: {title}) " if title else "")


# The layout of a passage, the name of its id in a ranking, and its label.
LAYOUTS: tuple[tuple[Layout, str, str], ...] = (
    (Layout(_titled("[ID: {}] Document: ")), "{}", "[ID: {}]"),
    (Layout(_titled("Passage {}: "), first=0), "{}", "Passage {}:"),
    (Layout(_titled("[Doc {:04}] ")), "{:04}", "[Doc {:04}]"),
)
INTRODUCTIONS = (
    "Here are passages, each with its id.",
    "The passages below were found by a search engine.",
    "Below you find passages from the web with their ids.",
)
QUESTIONS = (
    "Query: {query}\nRank all the passages by how well they answer the query, the best first. The "
    "last line has the form Answer: {form}, with every id once.",
    'Order the ids of all passages from the most to the least relevant for "{query}", and write '
    "the order as Answer: {form}.",
    "Someone searches for: {query}\nWhich passages help most? End with Answer: {form}, in which "
    "all ids stand once, the most helpful first.",
    "Sort the passages by their relevance to this query: {query}\nGive the ids of all, best "
    "first, as Answer: {form}.",
)
BEGINNINGS = (
    "I look for passages that answer the query.",
    "Which passages speak of what is asked? I recall the best.",
    "Let me find the passage that answers the query.",
)
LINKS = ("Another one is relevant.", "This one answers it too.", "Next to it I need this one.")
OTHERS = (
    "The others answer less of it, or nothing.",
    "The other passages are of less use, so they follow.",
    "I put the remaining passages behind.",
)
CLOSINGS = (
    "The recalled passages come first.",
    "That is the order by relevance.",
    "Here is the ranking.",
)
# More recalls than the reward counts would only lengthen the response.
RECALLED = 2


@dataclasses.dataclass(frozen=True)
class Query:
    """A query with its judged passages, which are relevant from grade 1 on."""

    name: str
    text: str
    judged: tuple[tuple[Passage, int], ...]

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages that were judged for the query."""
        return tuple(passage for passage, _ in self.judged)


def parse_query(raw: Any) -> Query:
    """Parse a row in HELMET's layout: qid, query, and ctxs with id, text, label and maybe title.

    Malformed passages are left out. A passage that comes twice is kept once, with its best grade.

    Raises:
      UnfitRowError: the row is malformed, a label is not a number, or no passage is relevant.
    """
    judged: dict[str, tuple[Passage, int]] = {}
    for value in list_field(raw, "ctxs")[:MAX_PASSAGES]:
        if not isinstance(value, Mapping):
            continue
        grade = _grade(value.get("label"))
        try:
            passage = read_passage(value.get("title"), value.get("text"))
        except UnfitRowError:
            if grade > 0:
                raise
            continue
        known = judged.get(passage.key, (passage, 0))
        judged[passage.key] = (known[0], max(known[1], grade))
    if not any(grade > 0 for _, grade in judged.values()):
        raise UnfitRowError("no relevant passage")
    name = raw.get("qid")
    return Query(
        str(name) if isinstance(name, int) else clean(name, "qid", most=MAX_QUESTION),
        clean(raw.get("query"), "query", most=MAX_QUESTION),
        tuple(judged.values()),
    )


def _grade(value: Any) -> int:
    """Return a label as a grade of at least 0; TREC marks junk by -1 or -2."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or not -10 <= value <= 100:
        raise UnfitRowError("a label that is not a grade")
    return max(0, int(value))


SOURCE = Source(
    dataset="msmarco_v2",
    files={
        "train": (
            "msmarco_v2*/train*.jsonl*",
            "msmarco_v2_train*.jsonl*",
            "msmarco_v2*/*train*qrels*",
            "msmarco_v2*/qrels*train*",
        ),
        "validation": (
            "msmarco_v2*/dev*.jsonl*",
            "msmarco_v2_dev*.jsonl*",
            "msmarco*/test_reranking_data*.jsonl*",
            "msmarco_v2*/*dev*qrels*",
            "msmarco_v2*/qrels*dev*",
            "msmarco_v2*/20[0-9][0-9]*qrels*",
            "msmarco_v2*/qrels.t[sx][vt]",
        ),
    },
    where="microsoft.github.io/msmarco (TREC DL, passages v2), cut to the judged passages",
    parse=parse_query,
    key=lambda row: row.name,
    asks=lambda row: normalise(row.text),
    read=read_judgements,
)


def msmarco(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw a query with passages to rank (arXiv 2604.09494, appendix B).

    1 to 10 % of the passages are relevant if the row has so many, and at least one is. The others
    come from one source: passages that were judged irrelevant (then BM25's neighbours), BM25's
    neighbours, or random passages. The last two are passages of the data set that were not judged
    relevant to the query. If there are too few, the prompt is shorter than the target length.
    """
    row = pick(read_table(SOURCE, settings.data_dir, split).rows, stream, index, attempt)
    corpus = pool_corpus((SOURCE,), settings.data_dir)
    rng = generator("msmarco_v2", stream, index)
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    layout, name, label = LAYOUTS[rng.integers(len(LAYOUTS))]
    form = " > ".join(name.format(number) for number in (12, 3, 7)) + " > …"
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(query=row.text, form=form)
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    before, after = around(question, introduction, question_place(rng))
    items = _items(row, corpus, settings.target_length, rng)
    order = rng.random(len(items))

    def example(num_fillers: int) -> Example:
        shown = [items[i] for i in np.argsort(order[: 1 + num_fillers])]
        document, ranges, _ = render([passage for passage, _ in shown], layout, len(before))
        names = [name.format(layout.first + place) for place in range(len(shown))]
        best = sorted(range(len(shown)), key=lambda place: -shown[place][1])
        relevant = [place for place in best if shown[place][1] > 0]
        answer = " > ".join(names[place] for place in best)
        return Example(
            system=system,
            user=before + document + after,
            documents=((len(before), len(before) + len(document)),),
            gold=tuple(ranges[place] for place in relevant),
            truth={
                "answers": [answer],
                "grades": {names[place]: shown[place][1] for place in range(len(shown))},
                "gold_labels": [label.format(layout.first + place) for place in relevant],
            },
            question_id=row.name,
            demonstrate=functools.partial(
                _demonstrate,
                recalled=[ranges[place] for place in relevant[:RECALLED]],
                answer=answer,
            ),
        )

    return Draft(example, most=len(items) - 1, from_row=True)


def _items(
    row: Query, corpus: Corpus, target_length: int, rng: np.random.Generator
) -> list[tuple[Passage, int]]:
    """Order the passages, with their grades, so that any beginning has its share of relevant ones.

    The first passage is relevant.
    """
    relevant = [item for item in row.judged if item[1] > 0]
    relevant = [relevant[i] for i in rng.permutation(len(relevant))]
    judged = [passage for passage, grade in row.judged if grade == 0]
    judged = [judged[i] for i in rng.permutation(len(judged))]
    share = rng.uniform(*RELEVANT_SHARE)
    kind = draw_kind(rng, NEGATIVE_RATES)
    own, kind = (judged, "bm25") if kind == "judged" else ([], kind)
    negatives = take(
        in_order(corpus, kind, row.text, own, rng),
        lambda passage: False,
        [passage for passage, _ in relevant],
        target_length,
    )
    items: list[tuple[Passage, int]] = []
    used = 0
    while used < len(relevant) or len(items) - used < len(negatives):
        wanted = max(1, round(share * (len(items) + 1)))
        if used < min(wanted, len(relevant)):
            items.append(relevant[used])
            used += 1
        elif len(items) - used < len(negatives):
            items.append((negatives[len(items) - used], 0))
        else:
            break
    return items


def _demonstrate(rng: np.random.Generator, *, recalled: list[Range], answer: str) -> Demonstration:
    thought = recalled_in_turn(rng, recalled, beginnings=BEGINNINGS, links=LINKS)
    thought.append(f"\n{OTHERS[rng.integers(len(OTHERS))]}")
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], answer)


@of_answer
def ndcg(answer: str, truth: GroundTruth) -> float:
    """Return the nDCG at 10 of the ranking."""
    return ids.ndcg(ids.ranked_ids(answer), truth.grades)


@of_answer
def ranked(answer: str, truth: GroundTruth) -> float:
    """Return the share of the prompt's ids that are ranked."""
    return ids.valid_share(ids.ranked_ids(answer), truth.grades)


@of_answer
def ranking_format(answer: str, truth: GroundTruth) -> float:
    """Return the root of the share of the prompt's ids that are ranked."""
    return math.sqrt(ids.valid_share(ids.ranked_ids(answer), truth.grades))


MSMARCO_V2 = Dataset(
    name="msmarco_v2",
    category="reranking",
    draft=msmarco,
    score=ndcg,
    metrics={"ndcg_at_10": ndcg, "ranked": ranked},
    reward=RewardRow(
        hit_threshold=0.7,
        min_span=5,
        gold_mode="top_k_gold",
        free_spans=4,
        top_k=2,
        task_format=ranking_format,
    ),
    source=SOURCE,
)
