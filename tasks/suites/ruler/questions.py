"""RULER's questions about documents: SQuAD v2.0 (qa_1) and HotpotQA (qa_2)."""

import dataclasses
import functools
import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.datasets.multi_hop_qa import SOURCES as MULTI_HOP
from tasks.datasets.single_hop_qa import SOURCES as SINGLE_HOP
from tasks.errors import UnfitRowError
from tasks.sources import table
from tasks.sources.table import Source, files_of, list_field, read_table, text_field
from tasks.suites.ruler.prompts import QA, QA_PREFIX, Prompt, RowSpec, Sized, filled

DOCUMENT = "Document {number}:\n{text}"


@dataclasses.dataclass(frozen=True)
class RulerQuestion:
    """A question about documents of a collection, which are given by number.

    Attributes:
      gold: the documents that hold the answer; every prompt has them.
      near: the documents that come in before all others.
    """

    query: str
    outputs: tuple[str, ...]
    gold: tuple[int, ...]
    near: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Collection:
    """All documents of a data set, each once, and the questions about them."""

    documents: tuple[str, ...]
    questions: tuple[RulerQuestion, ...]


@dataclasses.dataclass(frozen=True)
class SquadArticle:
    """A SQuAD article: the text of each paragraph, and its questions with their answers."""

    title: str
    paragraphs: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]


@dataclasses.dataclass(frozen=True)
class MultiHop:
    """A HotpotQA row: its documents, and the numbers of those that support the answer."""

    query: str
    answer: str
    documents: tuple[str, ...]
    supporting: tuple[int, ...]


def parse_article(raw: Any) -> SquadArticle:
    """Read an article with its answerable questions.

    Raises:
      UnfitRowError: it has no paragraph, or a field is malformed.
    """
    paragraphs = []
    for paragraph in list_field(raw, "paragraphs"):
        context = text_field(paragraph, "context")
        questions = []
        listed = paragraph.get("qas") or []
        if not isinstance(listed, list) or not all(isinstance(qas, dict) for qas in listed):
            raise UnfitRowError("questions that are not a list of objects")
        for qas in listed:
            if qas.get("is_impossible") or not qas.get("answers"):
                continue
            # Duplicates are kept: the benchmark lists every annotator's answer.
            answers = [text_field(answer, "text") for answer in list_field(qas, "answers")]
            questions.append((text_field(qas, "question"), tuple(answers)))
        paragraphs.append((context, tuple(questions)))
    return SquadArticle(text_field(raw, "title"), tuple(paragraphs))


def parse_multi_hop(raw: Any) -> MultiHop:
    """Read a row with its ten paragraphs.

    Raises:
      UnfitRowError: a field is missing, or a supporting paragraph is not among them.
    """
    documents, titles = [], []
    for item in list_field(raw, "context"):
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[1], list)):
            raise UnfitRowError("a paragraph that is not a pair of title and sentences")
        title, sentences = item
        if not isinstance(title, str) or not all(isinstance(part, str) for part in sentences):
            raise UnfitRowError("a paragraph that is not a text")
        titles.append(title)
        # Only checked: the original may end in white space, and so does the document.
        whole = f"{title}\n{''.join(sentences)}"
        text_field({"paragraph": whole}, "paragraph")
        documents.append(unicodedata.normalize("NFC", whole))
    facts = list_field(raw, "supporting_facts")
    if not all(isinstance(fact, list) and fact for fact in facts):
        raise UnfitRowError("a supporting fact that is not a pair of title and sentence")
    facts = [fact[0] for fact in facts]
    supporting = tuple(number for number, title in enumerate(titles) if title in facts)
    if not supporting:
        raise UnfitRowError("no supporting paragraph among the others")
    return MultiHop(
        text_field(raw, "question"), text_field(raw, "answer"), tuple(documents), supporting
    )


SQUAD: Source[SquadArticle] = Source(
    dataset="ruler_qa_1",
    files={"validation": ("dev-v2.0.json", "squad_v2_dev*.json")},
    where="https://rajpurkar.github.io/SQuAD-explorer, dev set v2.0",
    parse=parse_article,
    key=lambda article: article.title,
    shares=False,
)
HOTPOTQA: Source[MultiHop] = Source(
    dataset="ruler_qa_2",
    files={"validation": ("hotpot*_dev_distractor*.json",)},
    where="https://hotpotqa.github.io, dev set (distractor)",
    parse=parse_multi_hop,
    key=lambda row: (row.query, row.documents),
    shares=False,
)


@functools.lru_cache(maxsize=4)
def squad(data_dir: str) -> Collection:
    """Read SQuAD. The near documents of a question are the other paragraphs of its article."""
    _warn_of_training(SQUAD, SINGLE_HOP["nq"], data_dir)
    articles = read_table(SQUAD, data_dir, "validation").rows
    documents = sorted({text for article in articles for text, _ in article.paragraphs})
    number = {text: i for i, text in enumerate(documents)}
    questions = []
    for article in articles:
        own = list(dict.fromkeys(number[text] for text, _ in article.paragraphs))
        for text, asked in article.paragraphs:
            near = tuple(other for other in own if other != number[text])
            questions += [
                RulerQuestion(query, answers, (number[text],), near) for query, answers in asked
            ]
    return Collection(tuple(documents), tuple(questions))


@functools.lru_cache(maxsize=4)
def hotpotqa(data_dir: str) -> Collection:
    """Read HotpotQA. The near documents of a question are those of its row without support."""
    _warn_of_training(HOTPOTQA, MULTI_HOP["hotpotqa"], data_dir)
    rows = read_table(HOTPOTQA, data_dir, "validation").rows
    documents = sorted({text for row in rows for text in row.documents})
    number = {text: i for i, text in enumerate(documents)}
    questions = []
    for row in rows:
        own = [number[text] for text in row.documents]
        gold = tuple(dict.fromkeys(own[i] for i in row.supporting))
        near = tuple(other for other in dict.fromkeys(own) if other not in gold)
        questions.append(RulerQuestion(row.query, (row.answer,), gold, near))
    return Collection(tuple(documents), tuple(questions))


def _warn_of_training(suite: Source, source: Source, data_dir: str) -> None:
    """Warn if a data set takes its rows for training from the file of the benchmark."""
    shared = files_of(suite, data_dir, "validation") & files_of(source, data_dir, "train")
    if shared:
        logging.getLogger(__name__).warning(
            "%s: %s also serves %s for training, so a policy trained on that data set knows most "
            "of these questions; give it a file of its own (%s)",
            *(suite.dataset, ", ".join(sorted(shared)), source.dataset, source.files["train"][0]),
        )


def answer_question(collection: Collection, spec: RowSpec) -> Sized:
    """Draw a row with any number of documents beside the question's own.

    The near documents are added first, then others. If a context has room for more documents than
    the data set has, all are in it and the row is shorter, as in the benchmark.

    Differences from the benchmark: the place of every document is drawn for each row (there the
    gold document stands at the same place in all rows with equally many documents); questions come
    in random order; a row may have fewer than ten documents, though always HotpotQA's supporting
    ones (there generation does not end for short targets).
    """
    question = table.pick(collection.questions, spec.seed, spec.index, attempt=spec.attempt)
    rng = spec.rng(f"documents {spec.attempt}")
    near = rng.permutation(question.near).astype(int).tolist()
    own = {*question.gold, *near}
    others = [n for n in rng.permutation(len(collection.documents)).tolist() if n not in own]
    chosen = [*question.gold, *near, *others]
    places = rng.random(len(chosen))

    def prompt(size: int) -> Prompt:
        count = len(question.gold) + size
        context, gold = _render(
            [collection.documents[n] for n in chosen[:count]],
            np.argsort(places[:count]).tolist(),
            len(question.gold),
        )
        made = filled(QA, QA_PREFIX, context, gold, question.outputs, query=question.query)
        return dataclasses.replace(made, question_id=question.query)

    return Sized(prompt, len(chosen) - len(question.gold))


def _render(
    documents: Sequence[str], order: Sequence[int], num_gold: int
) -> tuple[str, list[tuple[int, int]]]:
    """Return the documents in an order, numbered, and the text ranges of the first `num_gold`."""
    text, ranges = "", {}
    for number, item in enumerate(order, 1):
        text += "\n\n" if text else ""
        text += DOCUMENT.format(number=number, text=documents[item])
        ranges[item] = (len(text) - len(documents[item]), len(text))
    return text, [ranges[item] for item in range(num_gold)]
