"""A corpus of passages with a BM25 index, and the distractors that a prompt takes from it."""

import collections
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.settings import TaskSettings
from tasks.sources.passages import Passage, read_passage
from tasks.sources.table import Source, find, is_stored, read_rows, read_table

FILES = ("*.jsonl", "*.jsonl.gz", "*.tsv", "*.tsv.gz")
# The paper's release draws dense neighbours 0.45, BM25 0.30, both 0.15, random 0.10. Dense ones
# need a model, so BM25 and random share their rate in proportion.
KIND_RATES = {"bm25": 0.6375, "mixed": 0.15, "random": 0.2125}
# A token of prose has at most this many characters on average, in any tokenizer.
MAX_CHARACTERS_PER_TOKEN = 12
_ENDINGS = ("ies", "ing", "ed", "es", "s", "e")


def _library():
    """Import bm25s and silence its log of every index."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s


def words(text: str) -> list[str]:
    """Return the words of a text that BM25 counts: two letters or more, without stop words."""
    return _library().tokenize([text], return_ids=False, show_progress=False)[0]


def stem(word: str) -> str:
    """Return a word without a common ending, so that "plays" and "played" are one."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


class Corpus:
    """Passages, each text once, with an index that is built at its first use."""

    def __init__(self, passages: Iterable[Passage]):
        found: dict[str, Passage] = {}
        for passage in passages:
            found.setdefault(passage.key, passage)
        self.passages = tuple(found.values())

    @functools.cached_property
    def _index(self):
        """The BM25 index; None if no passage has a word that counts."""
        bm25s = _library()
        texts = [f"{passage.title} {passage.text}" for passage in self.passages]
        tokens = bm25s.tokenize(texts, show_progress=False)
        if not any(tokens.ids):
            return None
        index = bm25s.BM25()
        index.index(tokens, show_progress=False)
        return index

    def scores(self, query: str) -> Float[np.ndarray, " N"]:
        """Return the BM25 score of each passage for a query (Lucene's; k1 1.5, b 0.75)."""
        none = np.zeros(len(self.passages), np.float32)
        if not self.passages or self._index is None:
            return none
        # The index also knows the empty word, which no passage has.
        known = self._index.get_tokens_ids([word for word in words(query) if word])
        return self._index.get_scores_from_ids(known) if known else none

    def nearest(self, query: str) -> Iterator[Passage]:
        """Yield the passages that share a word with a query, the best first."""
        scores = self.scores(query)
        order = np.flatnonzero(scores > 0)
        order = order[np.argsort(-scores[order], kind="stable")]
        return (self.passages[number] for number in order)

    @functools.cached_property
    def _by_title(self) -> Mapping[str, list[Passage]]:
        found: dict[str, list[Passage]] = {}
        for passage in self.passages:
            found.setdefault(passage.title.casefold(), []).append(passage)
        return found

    def titled(self, title: str) -> Sequence[Passage]:
        """Return the passages of the page with a title, whatever its case."""
        return self._by_title.get(title.casefold(), ())

    @functools.cached_property
    def _counts(self) -> Mapping[str, int]:
        counts: collections.Counter[str] = collections.Counter()
        if self._index is not None:
            passages = np.diff(self._index.scores["indptr"]).tolist()
            for word, number in self._index.vocab_dict.items():
                # The index may also know the empty word, which no passage has.
                counts[stem(word)] += passages[number] if word else 0
        return counts

    def count(self, stemmed: str) -> int:
        """Return how many passages have a word of this stem, those of each word counted."""
        return self._counts.get(stemmed, 0)

    def weight(self, stemmed: str) -> float:
        """Return the inverse document frequency of a stem, as in BM25; never negative."""
        total = len(self.passages)
        have = min(self.count(stemmed), total)
        return math.log(1 + (total - have + 0.5) / (have + 0.5))

    def shuffled(self, rng: np.random.Generator) -> Iterator[Passage]:
        """Yield all passages in a drawn order."""
        return (self.passages[number] for number in rng.permutation(len(self.passages)))


@functools.lru_cache(maxsize=4)
def read_corpus(path: str) -> Corpus:
    """Read a corpus from a file or folder: JSONL with title and text, or DPR's psgs_w100.tsv.

    The whole corpus is held in memory.

    Raises:
      TaskInputError: the path can't be read, or holds no usable passage.
    """
    names = tuple(pattern.lstrip("*") for pattern in FILES)
    paths = [path]
    if not path.endswith(names):
        paths = [found for pattern in FILES for found in find(path, [pattern])]
    skipped = 0

    def passages() -> Iterator[Passage]:
        nonlocal skipped
        for raw in itertools.chain.from_iterable(map(read_rows, paths)):
            try:
                yield _parse(raw)
            except UnfitRowError:
                skipped += 1

    corpus = Corpus(passages())
    if skipped:
        logging.getLogger(__name__).warning("corpus %s: %d lines left out", path, skipped)
    if not corpus.passages:
        raise TaskInputError(
            f"config.data.corpus = {path!r} holds no passage ({skipped} lines left out); give a "
            "JSONL file with title and text, a TSV file with id, text and title, or a folder of "
            "these"
        )
    return corpus


def _parse(raw: Any) -> Passage:
    if isinstance(raw, UnfitRowError):
        raise raw
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is not an object")
    return read_passage(raw.get("title"), raw.get("text"))


@functools.lru_cache(maxsize=8)
def pool_corpus(sources: tuple[Source, ...], data_dir: str) -> Corpus:
    """Return all passages, of both splits, of the data sets that are in a folder."""

    def rows(source: Source) -> Iterator[Any]:
        if not is_stored(source, data_dir):
            return
        for split in ("train", "validation"):
            try:
                yield from read_table(source, data_dir, split).rows
            except TaskInputError as error:
                # One small file that serves both splits may leave one of them empty.
                logging.getLogger(__name__).warning("no passages for the corpus: %s", error)

    return Corpus(passage for source in sources for row in rows(source) for passage in row.passages)


def corpus_of(settings: TaskSettings, sources: tuple[Source, ...]) -> Corpus:
    """Return the corpus of the settings, or else the pool of the data sets' own passages.

    Args:
      sources: data sets whose rows have `passages`.

    Raises:
      TaskInputError: the corpus can't be read.
    """
    if settings.corpus:
        return read_corpus(settings.corpus)
    return pool_corpus(sources, settings.data_dir)


def draw_kind(rng: np.random.Generator, rates: Mapping[str, float] = KIND_RATES) -> str:
    """Draw the kind of an example's distractors."""
    return list(rates)[rng.choice(len(rates), p=list(rates.values()))]


def in_order(
    corpus: Corpus, kind: str, query: str, own: Sequence[Passage], rng: np.random.Generator
) -> Iterator[Passage]:
    """Yield candidates for distractors, to be taken from the first on; some come twice.

    Args:
      kind: "bm25" yields the row's own passages, which were retrieved for it, then the query's
        neighbours, then random ones; "random" yields random ones first; "mixed" alternates.
      own: the passages that the row brings along.
    """
    near = itertools.chain(own, corpus.nearest(query) if kind != "random" else ())
    drawn = corpus.shuffled(rng)
    if kind == "mixed":
        both = itertools.zip_longest(near, drawn)
        return (passage for pair in both for passage in pair if passage is not None)
    return itertools.chain(near, drawn) if kind == "bm25" else itertools.chain(drawn, near)


def take(
    candidates: Iterable[Passage],
    refused: Callable[[Passage], bool],
    gold: Sequence[Passage],
    target_length: int,
    least: int = 0,
) -> list[Passage]:
    """Return enough distractors to fill a prompt of the target length, or as many as there are.

    Args:
      refused: whether a passage can't be a distractor, for example because it has an answer.
      gold: passages that are not taken, nor versions of them.
      least: take at least this many.
    """
    wanted = MAX_CHARACTERS_PER_TOKEN * target_length
    seen = {passage.key for passage in gold}
    openings = {passage.opening for passage in gold}
    taken: list[Passage] = []
    for passage in candidates:
        if passage.key in seen or passage.opening in openings or refused(passage):
            continue
        seen.add(passage.key)
        taken.append(passage)
        wanted -= len(passage.text)
        if wanted <= 0 and len(taken) >= least:
            break
    return taken
