"""An answer on the console: its text as it comes, and its spans beside their places."""

import dataclasses
import sys

from recallm_jax.answering.answer import Answer, Span
from recallm_jax.answering.console import show, show_as_it_comes, sources

DOCUMENT = f"{'x' * 20}ab\n{'y' * 30}ab{'z' * 30}\n"
SPANS = (
    Span("ab", (1, 3), ((20, 22), (53, 55)), closed=True),
    Span("c\nd", (9, 12), (), closed=True),
)
ANSWER = Answer(0, DOCUMENT, "Where?", "\n ab, I say \n", "", SPANS, True, 9, 5)
MARKED = "\x1b[1;36mab\x1b[0m"


def test_each_span_is_shown_beside_its_places():
    assert show(ANSWER).splitlines() == [
        "ab, I say",
        "",
        "  recall span 1: 'ab'",
        f"    line 1, characters 20 to 22 of the document: …{'x' * 20}[ab] {'y' * 23}…",
        f"    line 2, characters 53 to 55 of the document: …{'y' * 24}[ab]{'z' * 24}…",
        "  recall span 2: 'c\\nd'",
        "    not in the document",
    ]
    nothing = "  no recall span (--quote_first lets any model begin with one)"
    without = dataclasses.replace(ANSWER, spans=())
    assert show(without).splitlines() == ["ab, I say", "", nothing]


def test_many_places_and_a_cut_are_said_in_a_line():
    many = Span("a", (0, 1), tuple((n, n + 1) for n in range(9)), closed=False)
    answer = dataclasses.replace(ANSWER, document="a" * 9, spans=(many,), finished=False)
    lines = sources(answer).splitlines()
    assert len(lines) == 7
    assert lines[-2:] == ["    and 5 places more", "  the answer was cut at 5 tokens"]


def test_an_answer_is_written_once_while_it_grows(capsys):
    texts = ["I", "I say caf\ufffd", "I say café", "I say café, ab"]
    parts = [dataclasses.replace(ANSWER, text=text, finished=False) for text in texts]
    whole = dataclasses.replace(ANSWER, text=texts[-1])
    assert show_as_it_comes([*parts, whole]) == whole
    assert capsys.readouterr().out == f"I say café, ab\n\n{sources(whole)}\n"


def test_spans_are_in_colour_on_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    answer = dataclasses.replace(ANSWER, text="<|start_recall|>ab<|end_recall|>.")
    show_as_it_comes([answer])
    shown = capsys.readouterr().out
    assert shown.startswith(f"{MARKED}.")
    assert f"x{MARKED} y" in shown and "[ab]" not in shown
    monkeypatch.setenv("NO_COLOR", "1")
    show_as_it_comes([answer])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "<|start_recall|>ab" in shown
