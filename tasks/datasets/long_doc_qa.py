"""Category `long_doc_qa`: multiple choice over a long article (dataset `quality`)."""

import collections
import dataclasses
import functools
import logging
import re
from typing import Any

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Draft, Example, around, generator, question_place
from tasks.prompts.sentences import SUMMARY, split_sentences
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import candidates
from tasks.scoring.reward import RewardRow, of_answer
from tasks.scoring.truth import GroundTruth
from tasks.sources.corpus import stem, words
from tasks.sources.table import Source, list_field, pick, plain_text, read_table

LETTERS = "ABCD"
OPTION_STYLES = (
    "{letter}. {text}",
    "({letter}) {text}",
    "{letter}) {text}",
    "Option {letter}: {text}",
)
# English prose has 4 to 4.5 characters a token; an article with more than this is not tried.
MOST_CHARACTERS_A_TOKEN = 6
# After an article that did not fit, one of at most this share of its length is tried.
SHORTER = 0.9
# The shortest length that is tried, as a multiple of the shortest article's characters, because
# the fewest characters are not always the fewest tokens.
SHORTEST = 1.25
# How many characters of a summary an option shows, if options are made from summaries.
SUMMARY_CHARACTERS = 300
# Words of questions that say nothing of what a summary is about.
_ASKING = frozenset(
    map(stem, re.findall(r"\w+", "what who where when how why which does did story describe"))
)
# How often options are drawn from the summaries.
NUM_DRAWS = 4_000

INTRODUCTIONS = (
    "Here is the text.",
    "Read this text with care.",
    "The text that the question is about:",
    "Below is a long text.",
)
QUESTIONS = (
    "Which option answers the question? Give its letter.\n\n{question}\n{options}",
    "Answer the question about the text by the letter of the right option.\n\n"
    "Question: {question}\n\n{options}",
    "Choose the option that fits the text, and answer with its letter alone.\n\n"
    "{question}\n\n{options}",
    "One of the four options below is right, judged by the text. Which letter has it?\n\n"
    "{question}\n{options}",
)


@dataclasses.dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its options.

    Attributes:
      right: texts that are each a right answer.
      wrong: three wrong options; () if they are to be drawn from other questions' right ones.
    """

    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Article:
    """A text with its questions; `left_out` has a reason for each unusable question."""

    article_id: str
    set_id: str
    text: str
    questions: tuple[ChoiceQuestion, ...]
    left_out: tuple[str, ...] = ()


def _parse(raw: Any) -> Article:
    """Read an article of QuALITY, or a story of SQuALITY with summaries for answers."""
    if isinstance(raw, dict) and "document" in raw:
        article_id = set_id = plain_text(raw.get("metadata"), "passage_id", most=200)
        text, read_question = plain_text(raw, "document"), _parse_summaries
    else:
        article_id = plain_text(raw, "article_id", most=200)
        set_id = plain_text(raw, "set_unique_id", most=200)
        text, read_question = plain_text(raw, "article"), _parse_options
    questions: dict[ChoiceQuestion, None] = {}
    left_out: list[str] = []
    for item in list_field(raw, "questions"):
        try:
            question = read_question(item)
            if question in questions:
                raise UnfitRowError("a question asked twice")
            questions[question] = None
        except UnfitRowError as error:
            left_out.append(str(error))
    if not questions:
        raise UnfitRowError(f"no usable question: {left_out[0]}")
    return Article(article_id, set_id, text, tuple(questions), tuple(left_out))


def _parse_options(item: Any) -> ChoiceQuestion:
    question = _line(item, "question")
    options = list_field(item, "options")
    texts = [_line({"option": option}, "option") for option in options]
    if len(texts) != len(LETTERS) or len({text.casefold() for text in texts}) != len(LETTERS):
        raise UnfitRowError("a question without four different options")
    label = item.get("gold_label")
    if type(label) is not int or not 1 <= label <= len(LETTERS):
        raise UnfitRowError("a question without a gold_label from 1 to 4")
    right = texts.pop(label - 1)
    return ChoiceQuestion(question, (right,), tuple(texts))


def _parse_summaries(item: Any) -> ChoiceQuestion:
    question = _line(item, "question_text")
    summaries = [
        _line(response if isinstance(response, dict) else {"response_text": response}, name)
        for name, response in [("response_text", r) for r in list_field(item, "responses")]
    ]
    return ChoiceQuestion(
        question, tuple(dict.fromkeys(text for s in summaries for text in _excerpts(s)))
    )


def _line(row: Any, name: str) -> str:
    return " ".join(plain_text(row, name, most=10_000).split())


def _excerpts(summary: str) -> list[str]:
    """Return the runs of whole sentences of a summary that are as long as an option shows.

    There is one from each sentence on, unless too little follows it. A longer sentence is whole.
    """
    sentences = split_sentences(summary, SUMMARY)
    found: list[str] = []
    for number, text in enumerate(sentences):
        for sentence in sentences[number + 1 :]:
            if len(text) + 1 + len(sentence) > SUMMARY_CHARACTERS:
                break
            text += f" {sentence}"
        if not found or 2 * len(text) >= SUMMARY_CHARACTERS:
            found.append(text)
    return found


SOURCE = Source(
    dataset="quality",
    files={
        "train": (
            "QuALITY*htmlstripped.train",
            "*/QuALITY*htmlstripped.train",
            "quality*train.jsonl",
            "squality*train*.jsonl",
        ),
        "validation": (
            "QuALITY*htmlstripped.dev",
            "*/QuALITY*htmlstripped.dev",
            "quality*dev*.jsonl",
            "squality*dev*.jsonl",
        ),
    },
    where="github.com/nyu-mll/quality",
    parse=_parse,
    key=lambda article: article.set_id,
    asks=lambda article: article.article_id,
    group=lambda article: article.article_id,
)


@functools.lru_cache(maxsize=16)
def _articles(data_dir: str, split: str) -> tuple[Article, ...]:
    articles = read_table(SOURCE, data_dir, split).rows
    left_out = collections.Counter(reason for article in articles for reason in article.left_out)
    if left_out:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
        logging.getLogger(__name__).warning(
            "quality %s: %d questions left out: %s", split, left_out.total(), reasons
        )
    return articles


@functools.lru_cache(maxsize=128)
def _questions(
    data_dir: str, split: str, target_length: int, attempt: int
) -> tuple[tuple[Article, ChoiceQuestion], ...]:
    """Return the questions about articles that may fit, shorter ones at each attempt."""
    articles = _articles(data_dir, split)
    shortest = min(len(article.text) for article in articles)
    most = target_length * MOST_CHARACTERS_A_TOKEN
    if shortest > most:
        raise TaskInputError(
            f"target_length {target_length} is too short for dataset quality: its shortest "
            f"{split} article has {shortest:,} characters, some {shortest // 4:,} tokens; "
            "raise target_length, or set the data set's share to 0"
        )
    most = min(most, max(int(most * SHORTER**attempt), int(SHORTEST * shortest)))
    return tuple(
        (article, question)
        for article in articles
        if len(article.text) <= most
        for question in article.questions
    )


def quality(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw a question about one whole article, with its four options shuffled and no filler.

    Prompts are as long as their articles (mostly 2K to 9K tokens), at most the target length and
    far below a long one. Articles that are plainly longer than the target are not drawn. For the
    others the tokens decide: if one is too long, a shorter one is drawn.

    If there are files of SQuALITY but not of QuALITY, options are made from its summaries as our
    own stand-in: one that a reader of the story wrote for this question, and three that readers
    wrote for other questions on the same story. An option shows some sentences of a summary.

    There is no demonstration, because the data do not say where the evidence is.

    Raises:
      TaskInputError: files are missing, or no article is short enough.
      UnfitRowError: there are not three other questions to draw options from.
    """
    # Each attempt draws other wordings and places too: with both places few articles may fit.
    rng = generator(f"quality/{attempt}", stream, index)
    questions = _questions(settings.data_dir, split, settings.target_length, attempt)
    article, question = pick(questions, stream, index, attempt)
    if question.wrong:
        right, wrong = question.right[0], list(question.wrong)
    else:
        right, wrong = _summaries(rng, article, question)
    texts = [right, *wrong]
    if len(set(texts)) < len(LETTERS):
        raise UnfitRowError("two questions with the same summary")
    options = {letter: texts[i] for letter, i in zip(LETTERS, rng.permutation(4), strict=True)}
    style = OPTION_STYLES[rng.integers(len(OPTION_STYLES))]
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    asked = QUESTIONS[rng.integers(len(QUESTIONS))].format(
        question=question.text,
        options="\n".join(style.format(letter=a, text=text) for a, text in options.items()),
    )
    before, after = around(asked, introduction, question_place(rng))
    answer = next(letter for letter, text in options.items() if text == right)
    whole = Example(
        system=system,
        user=before + article.text + after,
        documents=((len(before), len(before) + len(article.text)),),
        gold=(),
        truth={"answers": [answer], "choices": options},
        question_id=f"{article.article_id}: {question.text}",
    )
    return Draft(lambda _: whole, most=0, from_row=True)


def _summaries(
    rng: np.random.Generator, article: Article, question: ChoiceQuestion
) -> tuple[str, list[str]]:
    """Return a summary for the question, and three that were written for others on the same story.

    A summary mostly names early and often what it was asked about, so that the question's words
    would tell the right option. Therefore of many draws one is taken in which none, one, two or all
    of the three, equally often, have more of them, have them earlier and repeat them more often
    than the right one, or all four are alike in it.

    Raises:
      UnfitRowError: there are not three other questions with summaries of their own, or one of the
        four cases is in no draw.
    """
    own = set(question.right)
    others = [
        texts
        for other in article.questions
        if other is not question and (texts := [t for t in other.right if t not in own])
    ]
    if len(others) < 3:
        raise UnfitRowError("a story with fewer than three other questions to draw options from")
    texts = [text for group in (question.right, *others) for text in group]
    sizes = np.array([len(group) for group in (question.right, *others)])
    asked = frozenset(_stems(question.text)) - _ASKING
    marks = np.array([_marks(text, asked) for text in texts])
    # In each row the group of the right option, which is the first, and three others.
    groups = rng.permuted(np.tile(np.arange(1, len(sizes)), (NUM_DRAWS, 1)), axis=1)[:, :3]
    groups = np.insert(groups, 0, 0, axis=1)
    chosen = np.cumsum(sizes)[groups] - 1 - rng.integers(sizes[groups])
    drawn = marks[chosen]
    more = (drawn[:, 1:] > drawn[:, :1]).sum(axis=1)
    equal = (drawn[:, 1:] == drawn[:, :1]).sum(axis=1)
    # Marks that all four have alike tell nothing. The four cases have the same marks alike.
    alike = equal == len(LETTERS) - 1
    patterns = alike @ (1 << np.arange(marks.shape[1]))
    for pattern in np.unique(patterns):
        cases = [
            np.flatnonzero(
                (patterns == pattern) & (alike | ((equal == 0) & (more == number))).all(axis=1)
            )
            for number in range(len(LETTERS))
        ]
        if all(map(len, cases)):
            right, *wrong = chosen[cases[rng.integers(len(LETTERS))][0]]
            return texts[right], [texts[number] for number in wrong]
    raise UnfitRowError("summaries whose words tell which of them answers the question")


def _marks(text: str, asked: frozenset[str]) -> tuple[int, int, int]:
    """Return how many of some stems a text has, how early the first, and how often it has any."""
    stems = _stems(text)
    places = [place for place, word in enumerate(stems) if word in asked]
    return len(asked.intersection(stems)), -min(places, default=SUMMARY_CHARACTERS), len(places)


@functools.lru_cache(maxsize=10_000)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(map(stem, words(text)))


@of_answer
def chosen_letter(answer: str, truth: GroundTruth) -> float:
    """Return 1 if the answer chooses the right option by its letter."""
    return candidates.chosen_letter(answer, truth.answers[0], truth.choices)


QUALITY = Dataset(
    name="quality",
    category="long_doc_qa",
    draft=quality,
    score=chosen_letter,
    metrics={"accuracy": chosen_letter},
    # There are no gold documents, so the threshold 1 is never used.
    reward=RewardRow(hit_threshold=1.0, min_span=7, gold_mode="used_recall", free_spans=4),
    source=SOURCE,
)
