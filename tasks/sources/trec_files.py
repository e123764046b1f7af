"""Read relevance judgements as TREC publishes them: files of qrels, of queries, of passages."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from storage.files import reading
from tasks.errors import TaskInputError, UnfitRowError
from tasks.sources.table import find, read_rows


def read_judgements(path: str) -> Iterator[Any]:
    """Yield the raw rows of a file: HELMET's unchanged, TREC's qrels joined with their texts.

    A file of qrels (lines `query 0 passage grade`) must have two kinds of files beside it: the
    queries of its split (`queries…tsv`, lines of id and text) and the passages (`passages….jsonl`
    with id and text, or MS MARCO's own pid and passage). Only judged passages are kept.

    Raises:
      TaskInputError: queries or passages are missing.
    """
    if path.removesuffix(".gz").endswith((".json", ".jsonl")):
        yield from read_rows(path)
        return
    folder, name = posixpath.split(path)
    queries = dict(
        fields[:2]
        for line in _lines(_beside(folder, _patterns(name), name)[0])
        if len(fields := line.split("\t")) >= 2
    )
    grades: dict[str, dict[str, str]] = {}
    for line in _lines(path):
        fields = line.split()
        if len(fields) != 4:
            yield UnfitRowError("a malformed line of qrels")
            continue
        if fields[2] in grades.setdefault(fields[0], {}):
            yield UnfitRowError("a passage that is judged twice")
            continue
        grades[fields[0]][fields[2]] = fields[3]
    wanted = {passage for judged in grades.values() for passage in judged}
    texts: dict[str, Mapping] = {}
    for file in _beside(folder, ("passages*.jsonl*",), name):
        for raw in read_rows(file):
            if isinstance(raw, Mapping):
                number = raw.get("id", raw.get("pid"))
                if isinstance(number, str | int) and str(number) in wanted:
                    texts.setdefault(str(number), raw)
    for query, judged in grades.items():
        yield {
            "qid": query,
            "query": queries.get(query),
            "ctxs": [
                {
                    "title": texts[passage].get("title"),
                    "text": texts[passage].get("text", texts[passage].get("passage")),
                    "label": grade,
                }
                for passage, grade in judged.items()
                if passage in texts
            ],
        }


def _patterns(qrels: str) -> tuple[str, ...]:
    """Return patterns for the queries of a file of qrels: of its split, or of all splits."""
    start, _, rest = qrels.removesuffix(".gz").partition("qrels")
    split = start.rstrip("._-")
    # TREC's names are such as 2021.qrels.pass.final.txt and 2021_queries.tsv.
    named = (f"{split}*queries*",) if split else ()
    return (f"{start}queries{posixpath.splitext(rest)[0]}.*", *named, "queries*.tsv*")


def _beside(folder: str, patterns: Sequence[str], qrels: str) -> list[str]:
    found = find(folder, patterns)
    if not found:
        raise TaskInputError(
            f"{folder} has {qrels}, but no {' or '.join(patterns)}; put it there, or give rows in "
            "HELMET's layout (qid, query, ctxs)"
        )
    return found


def _lines(path: str) -> Iterator[str]:
    try:
        with reading(path) as file:
            text = file.read().decode("utf-8", errors="replace")
        yield from (line for line in text.splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise TaskInputError(f"{path} can't be read ({error})") from None
