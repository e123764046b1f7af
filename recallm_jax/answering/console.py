"""An answer on the console: its text as it comes, and each span beside its places."""

import bisect
import os
import sys
from collections.abc import Iterable

from recallm_jax.answering.answer import Answer, Range, Span
from tasks.prompts.vocabulary import END_RECALL, START_RECALL

_ON, _OFF, _FAINT = "\x1b[1;36m", "\x1b[0m", "\x1b[2m"
# Characters around a place, and places that are shown of a span.
_AROUND, _PLACES = 24, 4
# A character whose last bytes are still to come.
_CUT = "\ufffd"


def show_as_it_comes(answers: Iterable[Answer]) -> Answer:
    """Print an answer while it grows, then its sources; return the whole one.

    On a terminal spans are in colour, unless NO_COLOR is set.
    """
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    written, answer = 0, None
    for answer in answers:
        text = answer.text if answer.finished else answer.text.rstrip(_CUT)
        more = text[written:]
        print(_coloured(more) if colour else more, end="", flush=True)
        written = max(written, len(text))
    assert answer is not None
    print(_OFF if colour else "", sources(answer, colour=colour), sep="\n\n", flush=True)
    return answer


def show(answer: Answer, *, colour: bool = False) -> str:
    """Return an answer for the console: the text, and each span beside its places."""
    text = answer.text.strip()
    return f"{_coloured(text) + _OFF if colour else text}\n\n{sources(answer, colour=colour)}"


def sources(answer: Answer, *, colour: bool = False) -> str:
    """Return the lines that say where each span stands in the document."""
    lines = []
    for number, span in enumerate(answer.spans, 1):
        lines.append(f"  recall span {number}: {span.text!r}")
        lines += [f"    {line}" for line in _places(span, answer.document, colour)]
    if not answer.spans:
        lines.append("  no recall span (--quote_first lets any model begin with one)")
    if not answer.finished:
        lines.append(f"  the answer was cut at {answer.tokens} tokens")
    return "\n".join(lines)


def _places(span: Span, document: str, colour: bool) -> list[str]:
    if not span.places:
        return ["not in the document"]
    breaks = [place for place, character in enumerate(document) if character == "\n"]
    lines = [_place(at, document, breaks, colour) for at in span.places[:_PLACES]]
    if len(span.places) > _PLACES:
        lines.append(f"and {len(span.places) - _PLACES} places more")
    return lines


def _place(place: Range, document: str, breaks: list[int], colour: bool) -> str:
    low, high = place
    before = document[max(0, low - _AROUND) : low]
    after = document[high : high + _AROUND]
    copied = document[low:high]
    marked = f"{_ON}{copied}{_OFF}" if colour else f"[{copied}]"
    line = bisect.bisect_left(breaks, low) + 1
    where = f"line {line}, characters {low} to {high} of the document: "
    where = f"{_FAINT}{where}{_OFF}" if colour else where
    return where + _in_a_line(f"…{before}{marked}{after}…")


def _coloured(text: str) -> str:
    return text.replace(START_RECALL, _ON).replace(END_RECALL, _OFF)


def _in_a_line(text: str) -> str:
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
