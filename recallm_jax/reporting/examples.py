"""Example responses as markup: each recall span beside the place it was copied from."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from recallm_jax.evaluation.summaries import Row
from recallm_jax.reporting.data import Run, main_labels, select

# Characters and lines shown on each side of a source, at most.
AROUND, LINES_AROUND = 160, 2
# The most places of a span that are shown.
MOST_PLACES = 2
_CONTROL = re.compile(r"<\|[^<>|]*\|>|</?think>")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A range of characters to highlight.

    Attributes:
      number: the number of its span.
      link: the target of a click; "" without one.
    """

    start: int
    end: int
    number: int
    style: str
    anchor: str
    link: str


@dataclasses.dataclass(frozen=True)
class Source:
    """One recall span and its places in the prompt.

    Attributes:
      count: the number of places in the prompt that hold its text.
      excerpts: (character range, excerpt) of the first places.
    """

    number: int
    text: str
    verbatim: bool
    closed: bool
    count: int
    excerpts: list[tuple[tuple[int, int], Markup]]


@dataclasses.dataclass(frozen=True)
class Example:
    """One response, ready for the page."""

    key: str
    row: Row
    completion: Markup
    prompt: Markup
    sources: list[Source]


def choose_examples(run: Run, per_task: int) -> list[list[Row]]:
    """Choose prompts of each task and mode; return the rows of each, one for each label.

    The four kinds of prompts take turns: those whose answer became right between the first main
    label and the last, those whose answer became wrong, those that stayed right, and those that
    stayed wrong.
    """
    compared = main_labels(run)
    groups = []
    for mode in run.modes:
        for dataset in run.datasets:
            for length in run.lengths:
                found = select(run.rows, mode=mode, dataset=dataset, target_length=length, sample=0)
                prompts: dict[str, list[Row]] = {}
                for row in sorted(found, key=lambda row: run.labels.index(row["label"])):
                    prompts.setdefault(row["example_id"], []).append(row)
                kinds: dict[tuple[bool, bool], list[list[Row]]] = {}
                for rows in prompts.values():
                    ends = [row for row in rows if row["label"] in compared] or rows
                    kind = (bool(ends[0]["exact_match"]), bool(ends[-1]["exact_match"]))
                    kinds.setdefault(kind, []).append(rows)
                order = [(False, True), (True, False), (True, True), (False, False)]
                groups += _take_in_turn([kinds.get(kind, []) for kind in order], per_task)
    return groups


def _take_in_turn(kinds: list[list[list[Row]]], limit: int) -> list[list[Row]]:
    taken: list[list[Row]] = []
    for place in range(max(map(len, kinds))):
        taken += [kind[place] for kind in kinds if place < len(kind)]
    return taken[:limit]


def make_example(key: str, row: Row) -> Example:
    """Return a response with its spans and their sources highlighted.

    Args:
      key: unique on the page; anchors begin with it.
    """
    in_completion, in_prompt, sources = [], [], []
    for number, span in enumerate(row["spans"], 1):
        places = _places(row["prompt"], span)
        style = "span" if span["verbatim"] else "span wrong"
        link = f"#{key}-p{number}" if places else ""
        start, end = span["response_chars"]
        in_completion.append(Mark(start, end, number, style, f"{key}-c{number}", link))
        for place, (first, last) in enumerate(places[:MOST_PLACES]):
            anchor = f"{key}-p{number}" if place == 0 else ""
            in_prompt.append(Mark(first, last, number, "span", anchor, f"#{key}-c{number}"))
        sources.append(
            Source(
                number=number,
                text=span["text"],
                verbatim=span["verbatim"],
                closed=span["closed"],
                count=max(span["count"], len(places)),
                excerpts=[
                    (place, _excerpt(row["prompt"], place, number))
                    for place in places[:MOST_PLACES]
                ],
            )
        )
    return Example(
        key=key,
        row=row,
        completion=highlight(row["completion"], in_completion),
        prompt=highlight(row["prompt"], in_prompt),
        sources=sources,
    )


def _places(prompt: str, span: dict) -> list[tuple[int, int]]:
    """Return the character ranges of a span's sources.

    An unconstrained model may quote the text in other tokens; then its text is searched for.
    """
    if span["occurrences"]:
        return [tuple(place["chars"]) for place in span["occurrences"]]
    start = prompt.find(span["text"]) if span["verbatim"] else -1
    return [(start, start + len(span["text"]))] if start >= 0 else []


def _excerpt(prompt: str, place: tuple[int, int], number: int) -> Markup:
    first, last = place
    before, after = prompt[max(0, first - AROUND) : first], prompt[last : last + AROUND]
    low = first - len("\n".join(before.split("\n")[-LINES_AROUND - 1 :]))
    high = last + len("\n".join(after.split("\n")[: LINES_AROUND + 1]))
    mark = Mark(first - low, last - low, number, "span", "", "")
    opening = Markup("…") if low else Markup("")
    closing = Markup("…") if high < len(prompt) else Markup("")
    return opening + highlight(prompt[low:high], [mark]) + closing


def highlight(text: str, marks: Sequence[Mark]) -> Markup:
    """Return escaped text in which ranges are marked; ranges may overlap."""
    bounds = {0, len(text)}
    for mark in marks:
        bounds |= {min(mark.start, len(text)), min(mark.end, len(text))}
    cuts = sorted(bounds)
    parts, opened = [], set()
    for start, end in itertools.pairwise(cuts):
        piece = _dim_control_tokens(text[start:end])
        inside = [mark for mark in marks if mark.start <= start and end <= mark.end]
        if not inside:
            parts.append(piece)
            continue
        mark = inside[0]
        begins = (mark.number, mark.start) not in opened
        opened.add((mark.number, mark.start))
        anchor = Markup(' id="{}"').format(mark.anchor) if mark.anchor and begins else ""
        badge = Markup("<sup>{}</sup>").format(mark.number) if begins else ""
        body = Markup('<mark class="{}" data-span="{}"{}>{}{}</mark>').format(
            mark.style, mark.number, anchor, badge, piece
        )
        parts.append(Markup('<a href="{}">{}</a>').format(mark.link, body) if mark.link else body)
    return Markup("").join(parts)


def _dim_control_tokens(text: str) -> Markup:
    parts, last = [], 0
    for match in _CONTROL.finditer(text):
        parts += [escape(text[last : match.start()])]
        parts += [Markup('<span class="control">{}</span>').format(match[0])]
        last = match.end()
    return Markup("").join([*parts, escape(text[last:])])
