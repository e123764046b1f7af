"""Gold passages that data sets publish with their questions: NQ's long answers, TriviaQA's pages.

Natural Questions (Kwiatkowski et al. 2019) marks in a Wikipedia page the paragraph that answers a
question, and the short answer in it. TriviaQA's "rc" form (arXiv 1705.03551) has whole pages that
hold the answer somewhere. KILT (arXiv 2009.02252) names pages by their titles.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.errors import UnfitRowError
from tasks.sources.passages import Passage, read_answers, read_passage
from tasks.sources.table import list_field

MAX_TOKENS, MAX_PARAGRAPHS, MAX_PAGES = 2_000, 2_000, 50
# NQ writes the tokens of a page apart.
_JOINTS = (
    (re.compile(r" ([.,;:!?%)\]}']|'s\b|n't\b)"), r"\1"),
    (re.compile(r"([(\[{$]) "), r"\1"),
    (re.compile(r"`` ?| ?''"), '"'),
)
_TITLE = re.compile(r"<H1> (.*?) </H1>", re.IGNORECASE)


def is_long_answer(raw: Mapping) -> bool:
    """Return whether a row is in a layout of Natural Questions with its page."""
    return "annotations" in raw and any(
        name in raw for name in ("document_text", "document_tokens", "document")
    )


def read_long_answer(raw: Mapping) -> tuple[Any, tuple[str, ...], Passage]:
    """Return the question, the short answers and the long answer that holds them.

    The layouts are Google's simplified training file, Google's development files, and that of
    Hugging Face and TFDS.

    Raises:
      UnfitRowError: the row is malformed, or no annotator marked both a long and a short answer.
    """
    tokens, tags, title = _page(raw)
    question = raw.get("question_text", raw.get("question"))
    if isinstance(question, Mapping):
        question = question.get("text")

    def text(span: Any) -> str:
        low, high = _span(span)
        if not 0 <= low < high <= len(tokens) or high - low > MAX_TOKENS:
            raise UnfitRowError("an answer outside its page, or absurdly long")
        kept = [tokens[place] for place in range(low, high) if not tags[place]]
        return _joined(kept)

    for annotation in _annotations(raw["annotations"]):
        long, short = annotation.get("long_answer"), annotation.get("short_answers")
        spans = _spans(short)
        if spans and isinstance(long, Mapping) and _span(long)[1] > 0:
            return question, read_answers([text(s) for s in spans]), read_passage(title, text(long))
    raise UnfitRowError("no long and short answer")


def _page(raw: Mapping) -> tuple[Sequence[str], Sequence[bool], str]:
    """Return the tokens of a page, which of them are tags, and the page's title."""
    if isinstance(text := raw.get("document_text"), str):
        words = text.split(" ")
        found = _TITLE.search(text)
        title = _joined(found.group(1).split(" ")) if found else ""
        return words, [word[:1] == "<" and word[-1:] == ">" for word in words], title
    page = raw.get("document")
    page = page if isinstance(page, Mapping) else {}
    name = raw.get("document_title") or page.get("title")
    listed: Any = raw.get("document_tokens") or page.get("tokens")
    tokens: list[Any]
    if isinstance(listed, Mapping):
        tokens, tags = listed.get("token") or [], listed.get("is_html") or []
    else:
        rows = [row for row in listed or () if isinstance(row, Mapping)]
        tokens = [row.get("token") for row in rows]
        tags = [row.get("html_token") for row in rows]
    if len(tokens) != len(tags) or not all(isinstance(token, str) for token in tokens):
        raise UnfitRowError("a malformed page")
    return tokens, list(map(bool, tags)), name if isinstance(name, str) else ""


def _annotations(value: Any) -> Iterator[Mapping]:
    """Yield the annotations; Hugging Face and TFDS have one object of lists."""
    if isinstance(value, Mapping):
        longs, shorts = value.get("long_answer"), value.get("short_answers")
        if isinstance(longs, list) and isinstance(shorts, list):
            for long, short in zip(longs, shorts, strict=False):
                yield {"long_answer": long, "short_answers": short}
        return
    yield from (
        (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()
    )


def _spans(short: Any) -> list[Mapping]:
    if isinstance(short, Mapping):
        starts, ends = short.get("start_token"), short.get("end_token")
        if not isinstance(starts, list) or not isinstance(ends, list):
            return []
        return [{"start_token": a, "end_token": b} for a, b in zip(starts, ends, strict=False)]
    return [span for span in short if isinstance(span, Mapping)] if isinstance(short, list) else []


def _span(span: Mapping) -> tuple[int, int]:
    low, high = span.get("start_token"), span.get("end_token")
    if type(low) is not int or type(high) is not int:
        raise UnfitRowError("an answer without its place")
    return low, high


def _joined(tokens: Sequence[str]) -> str:
    text = " ".join(token for token in tokens if token)
    for pattern, joint in _JOINTS:
        text = pattern.sub(joint, text)
    return text


def read_pages(raw: Mapping) -> list[Passage]:
    """Return the paragraphs of the pages that TriviaQA's "rc" form has with a question."""
    found: dict[str, Passage] = {}
    for name, text in (("entity_pages", "wiki_context"), ("search_results", "search_context")):
        pages = raw.get(name)
        if not isinstance(pages, Mapping) or not isinstance(pages.get(text), list):
            continue
        titles = pages.get("title")
        titles = titles if isinstance(titles, list) else []
        for number, page in enumerate(pages[text][:MAX_PAGES]):
            title = titles[number] if number < len(titles) else ""
            if not isinstance(page, str):
                continue
            for paragraph in re.split(r"\n\s*\n|\n", page)[:MAX_PARAGRAPHS]:
                try:
                    passage = read_passage(title, paragraph)
                except UnfitRowError:
                    continue
                found.setdefault(passage.key, passage)
    return list(found.values())


def read_kilt(raw: Mapping) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """Return the question, the answers and the titles of the pages that a row of KILT names.

    Raises:
      UnfitRowError: the row has no answer.
    """
    outputs = [item for item in list_field(raw, "output") if isinstance(item, Mapping)]
    titles: dict[str, None] = {}
    for item in outputs:
        places = item.get("provenance")
        for place in places if isinstance(places, list) else ():
            if isinstance(place, Mapping) and isinstance(title := place.get("title"), str):
                titles.setdefault(title)
    answers = read_answers([item.get("answer") for item in outputs if item.get("answer")])
    return raw.get("input"), answers, tuple(titles)
