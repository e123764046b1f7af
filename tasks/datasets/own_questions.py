"""Category `own`: a user's own questions about whole documents or passages (`own_questions`).

A row of JSONL has `question`, `answers` (aliases of one answer, or `answer` alone) and one of

* `document`, a text that is shown whole and unchanged, or `document_file`, a path seen from the
  folder of the JSONL; with `evidence`: verbatim quotes from it that lead to the answer, in the
  order of the reasoning. Without quotes the evidence is the sentence that holds an answer and has
  the most words of the question, for a bare number at least one;
* `passages`, objects with `title`, `text` and, if it is known, `gold`: whether the passage leads to
  the answer. Without `gold` it is the passage with that sentence. Distractors fill the prompt.

A field that is null counts as absent, and a number counts as its digits.
"""

import dataclasses
import functools
import itertools
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from storage.errors import InputError
from storage.files import Path, as_path, read_text, told
from tasks.datasets.dataset import Dataset
from tasks.datasets.questions import (
    CONCLUSIONS,
    REFERENCE_METRICS,
    Evidence,
    Question,
    alias,
    question_draft,
    reference,
)
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
from tasks.prompts.sentences import DOCUMENT, sentence_ends
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring.reward import RewardRow
from tasks.sources.corpus import corpus_of
from tasks.sources.evidence import least_shared, most_alike, num_shared
from tasks.sources.passages import (
    MAX_ANSWER,
    MAX_QUESTION,
    Passage,
    clean,
    is_spaced,
    places,
    read_answers,
    read_passage,
    support,
)
from tasks.sources.table import Source, list_field, pick, plain_text, read_rows, read_table

DATASET = "own_questions"
MAX_DOCUMENT, MAX_PASSAGES = 10_000_000, 1_000
# The reward does not count this many spans as dense, nor a span of this length as too short.
MAX_QUOTES, MIN_QUOTE = 8, 7
# How many places of an answer are tried, and how many characters around each are read.
MAX_PLACES, REACH = 200, 600
# A sentence with more characters may be a table: then the lines around the answer count.
LONG_SENTENCE = 300
# Few tokens are shorter, so that a span with this many characters a token is rarely cut.
CHARACTERS_A_TOKEN = 2
# Prose has 4 to 4.5 characters a token; a document with more than this is not tried.
MOST_CHARACTERS_A_TOKEN = 6
# After a document that did not fit, one of at most this share of its length is tried.
SHORTER = 0.9

INTRODUCTIONS = (
    "Here is a document.",
    "Read this document.",
    "The question is about this text:",
    "Below stands a text.",
)
WORDINGS = (
    "Question: {question}\nFind the answer in the text and give it in a few words.",
    "Using the text, answer this question as briefly as you can: {question}",
    "What does the text say? {question}\nAnswer with a name, a number or a short phrase.",
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


def asked_last(question: str) -> tuple[str, str]:
    """Return the text before and after a document, in the first wordings, the question last."""
    return around(WORDINGS[0].format(question=question), INTRODUCTIONS[0], "end")


@dataclasses.dataclass(frozen=True)
class Reading:
    """A question about a whole document.

    Attributes:
      answers: aliases of one answer.
      evidence: the ranges of the document's characters that lead to it, in order.
      passages: always empty, so that no document becomes a distractor.
    """

    text: str
    answers: tuple[str, ...]
    document: str
    evidence: tuple[Range, ...]
    passages: tuple[Passage, ...] = ()


def parse(raw: Any) -> Reading | Question:
    """Parse a row.

    Raises:
      UnfitRowError: the row is malformed, or nothing in it leads to the answer.
    """
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is not an object")
    raw = {name: value for name, value in raw.items() if value is not None}
    text = clean(raw.get("question"), "question", most=MAX_QUESTION)
    answers = _answers(raw.get("answers", raw.get("answer")))
    if ("document" in raw) == ("passages" in raw):
        raise UnfitRowError("not exactly one of document and passages")
    if "document" not in raw:
        return _of_passages(raw, text, answers)
    document = plain_text(raw, "document", most=MAX_DOCUMENT)
    quotes = raw.get("evidence") or []
    quotes = [quotes] if isinstance(quotes, str) else quotes
    if not isinstance(quotes, list) or len(quotes) > MAX_QUOTES:
        raise UnfitRowError(f"evidence that is not a list of at most {MAX_QUOTES} quotes")
    if quotes:
        evidence = tuple(_quoted(document, quote) for quote in quotes)
    else:
        evidence = (_sentence(document, text, answers),)
    return Reading(text, answers, document, evidence)


def _answers(raw: Any) -> tuple[str, ...]:
    values = raw if isinstance(raw, list) else [raw]
    texts = [str(x) if type(x) in (int, float) else x for x in values]
    for value in texts:
        if isinstance(value, str) and len(value) > MAX_ANSWER:
            raise UnfitRowError(f"an answer of more than {MAX_ANSWER} characters")
    return read_answers(texts)


def _quoted(document: str, quote: Any) -> Range:
    """Return the range of a quote, in whole words; line breaks and spaces count as equal."""
    parts = clean(quote, "evidence", most=MAX_DOCUMENT).split()
    found = re.search(r"\s+".join(map(re.escape, parts)), document)
    if found is None:
        raise UnfitRowError("evidence that is not in the document")
    low, high = found.span()
    if high - low < MIN_QUOTE:
        low, high = _around(document, (low, high))
    return _whole_words(document, low, high)


def _whole_words(document: str, low: int, high: int) -> Range:
    while low > 0 and is_spaced(document[low - 1]) and is_spaced(document[low]):
        low -= 1
    while high < len(document) and is_spaced(document[high - 1]) and is_spaced(document[high]):
        high += 1
    return low, high


def _sentence(document: str, question: str, answers: Sequence[str]) -> Range:
    """Return the sentence that holds an answer and is most like the question."""
    found = [
        place
        for answer in answers
        for place in itertools.islice(places(document, answer), MAX_PLACES)
    ]
    if not found:
        raise UnfitRowError("no evidence, and an answer that is not in the document")

    def shared(part: Range) -> int:
        return num_shared(question, answers, document[slice(*part)])

    best = max(dict.fromkeys(_around(document, place) for place in found), key=shared)
    if shared(best) < least_shared(question, answers):
        raise UnfitRowError(
            "no evidence, and no sentence with the number and a word of what is asked"
        )
    return best


def _around(document: str, place: Range) -> Range:
    """Return the sentence around a place, or the lines around it if the sentence is too long."""
    before = document[max(0, place[0] - REACH) : place[0]]
    after = document[place[1] : place[1] + REACH]
    low = place[0] - len(before) + max(sentence_ends(before, DOCUMENT), default=0)
    high = place[1] + next(sentence_ends(after, DOCUMENT), len(after))
    if high - low > LONG_SENTENCE:
        low = max(low, document.rfind("\n", 0, place[0]) + 1)
        line = document.find("\n", place[1])
        high = min(high, line if line >= 0 else high)
    low += len(document[low:high]) - len(document[low:high].lstrip())
    high = low + len(document[low:high].rstrip())
    return _whole_words(document, low, high)


def _shortened(row: Reading, part: Range, most: int) -> Range:
    """Cut evidence to about `most` characters: those around the answer, or the first ones."""
    low, high = part
    if high - low <= most:
        return part
    text = row.document[low:high]
    place = next((found for answer in row.answers for found in places(text, answer)), (0, 0))
    start = low + max(0, min((sum(place) - most) // 2, len(text) - most))
    first, last = start, min(start + most, high)
    # Drop cut words at both ends, unless they belong to the answer.
    while first > low and first < low + place[0] and not row.document[first - 1].isspace():
        first += 1
    while last < high and last > low + place[1] and not row.document[last].isspace():
        last -= 1
    return first, last


def _of_passages(raw: Mapping, text: str, answers: tuple[str, ...]) -> Question:
    gold: list[Passage] = []
    others: list[Passage] = []
    values = [value for value in list_field(raw, "passages") if isinstance(value, Mapping)]
    for value in values[:MAX_PASSAGES]:
        is_gold = str(value.get("gold")).casefold() in ("true", "1")
        try:
            passage = read_passage(value.get("title"), value.get("text"))
        except UnfitRowError:
            if is_gold:
                raise
            continue
        (gold if is_gold else others).append(passage)
    if gold:
        found = [(passage, support(passage, answers)) for passage in gold]
    elif alike := most_alike(text, answers, others):
        found = [alike]
        others = [passage for passage in others if passage != alike[0]]
    else:
        raise UnfitRowError("no passage is gold, or has a sentence that answers the question")
    evidence = {passage.key: Evidence(passage, part) for passage, part in found}
    return Question(text, text, answers, tuple(evidence.values()), tuple(others))


def _raw_rows(path: str) -> Iterator[Any]:
    """Yield the raw rows of a file, each with the text of its `document_file` as its document."""
    folder = as_path(path.removeprefix("file://")).parent
    texts: dict[str, str | UnfitRowError] = {}
    for raw in read_rows(path):
        file = raw.get("document_file") if isinstance(raw, Mapping) else None
        if file is None:
            yield raw
        elif raw.get("document") is not None:
            yield UnfitRowError("both document and document_file")
        elif not isinstance(file, str) or not file:
            yield UnfitRowError("a document_file that is not a path")
        else:
            if file not in texts:
                texts[file] = _text_of(folder / file, file)
            text = texts[file]
            yield text if isinstance(text, UnfitRowError) else {**raw, "document": text}


def _text_of(path: Path, file: str) -> str | UnfitRowError:
    """Return the text of a document; a fault of the disk or the network is no fault of a row."""
    try:
        with told(str(path)):
            return read_text(path)
    except InputError:
        raise
    # The last one: the path holds a zero byte, or the file is not UTF-8.
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return UnfitRowError(f"document_file {file} can't be read as UTF-8")


SOURCE = Source(
    dataset=DATASET,
    files={
        "train": ("own_questions_train*.jsonl", "own_questions.jsonl"),
        "validation": ("own_questions_validation*.jsonl",),
    },
    where="rows of your own: docs/tasks.md says how they are written",
    parse=parse,
    read=_raw_rows,
    key=lambda row: (row.text, _on(row)),
    # Questions about one document stay in one split.
    group=lambda row: _on(row),
)


def _on(row: Reading | Question) -> str:
    return row.document if isinstance(row, Reading) else row.evidence[0].passage.key


@functools.lru_cache(maxsize=128)
def _rows(
    data_dir: str, split: str, target_length: int, attempt: int
) -> tuple[Reading | Question, ...]:
    """Return the rows whose documents may fit, shorter ones at each attempt."""
    rows = read_table(SOURCE, data_dir, split).rows
    most = MOST_CHARACTERS_A_TOKEN * target_length * SHORTER**attempt
    most = max(most, min(map(_length, rows)))
    found = tuple(row for row in rows if _length(row) <= most)
    if not attempt and len(found) < len(rows):
        logging.getLogger(__name__).warning(
            "%s %s: %d of %d documents are plainly longer than %d tokens and are left out",
            *(DATASET, split, len(rows) - len(found), len(rows), target_length),
        )
    return found


def _length(row: Reading | Question) -> int:
    return len(row.document) if isinstance(row, Reading) else 0


def own_questions(
    settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw one of the user's questions; if its document is too long, another one is drawn."""
    rows = _rows(settings.data_dir, split, settings.target_length, attempt)
    row = pick(rows, stream, index, attempt)
    if isinstance(row, Question):
        return question_draft(DATASET, row, corpus_of(settings, (SOURCE,)), settings, stream, index)
    rng = generator(DATASET, stream, index)
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    question = WORDINGS[rng.integers(len(WORDINGS))].format(question=row.text)
    before, after = around(question, introduction, question_place(rng))
    start = len(before)
    most = CHARACTERS_A_TOKEN * settings.max_recall_length
    parts = [_shortened(row, part, most) for part in row.evidence]
    evidence = [(start + low, start + high) for low, high in parts]
    answer = _stated(row)
    kept = tuple(
        (low + a, low + b)
        for low, high in evidence
        for a, b in places(row.document[low - start : high - start], answer)
    )
    example = Example(
        system=system,
        user=before + row.document + after,
        documents=((start, start + len(row.document)),),
        gold=tuple(evidence),
        truth={"answers": list(row.answers)},
        # Other documents may be asked the same.
        question_id=f"{row.text} ({zlib.crc32(row.document.encode()):08x})",
        demonstrate=functools.partial(_demonstrate, recalled=evidence, kept=kept, answer=answer),
    )
    return Draft(lambda _: example, most=0, from_row=True)


def _stated(row: Reading) -> str:
    """Return the first alias that the evidence has, or else the document, or else the first one."""
    texts = [row.document[low:high] for low, high in row.evidence] + [row.document]
    known = (answer for text in texts for answer in row.answers if any(places(text, answer)))
    return next(known, row.answers[0])


def _demonstrate(
    rng: np.random.Generator, *, recalled: Sequence[Range], kept: tuple[Range, ...], answer: str
) -> Demonstration:
    thought = recalled_in_turn(rng, recalled, beginnings=BEGINNINGS, links=LINKS)
    thought.append(f"\n{CONCLUSIONS[rng.integers(len(CONCLUSIONS))].format(answer=answer)}")
    return Demonstration(tuple(thought), CLOSINGS[rng.integers(len(CLOSINGS))], answer, kept)


OWN_QUESTIONS = Dataset(
    name=DATASET,
    category="own",
    draft=own_questions,
    score=reference,
    exact_match=alias,
    metrics=REFERENCE_METRICS,
    # The row of multi-hop questions, with more free spans.
    reward=RewardRow(
        hit_threshold=0.4, min_span=MIN_QUOTE, gold_mode="standard", free_spans=MAX_QUOTES
    ),
    source=SOURCE,
)
