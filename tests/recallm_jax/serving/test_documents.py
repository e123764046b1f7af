"""Documents in messages, and the places of quotes in each of them."""

import base64

import pytest

from recallm_jax.answering.answer import Answer, Span
from recallm_jax.serving.documents import (
    Document,
    citations,
    document_of,
    joined,
    split_tagged,
)
from recallm_jax.serving.errors import BadRequest

DOCUMENTS = [Document("ab cd\r\n", "one"), Document("cd"), Document("x cd")]


def answer_with(*spans):
    return Answer(0, joined(DOCUMENTS), "?", "", "", spans, True, 1, 1)


def places_of(text):
    whole = joined(DOCUMENTS)
    return tuple((at, at + len(text)) for at in range(len(whole)) if whole.startswith(text, at))


def test_a_quote_is_cited_in_every_document_that_holds_it():
    span = Span("cd", (0, 2), places_of("cd"), closed=True)
    rows = citations(answer_with(span), DOCUMENTS)
    assert [(row["document"], row["start"], row["end"]) for row in rows] == [
        *((0, 3, 5), (1, 0, 2), (2, 2, 4))
    ]
    assert [row.get("title") for row in rows] == ["one", None, None]
    for row in rows:
        text = DOCUMENTS[row["document"]].text
        assert text[row["start"] : row["end"]] == row["text"] == "cd" and row["span"] == 0


def test_a_quote_over_the_end_of_a_document_is_cited_up_to_its_end():
    span = Span("cd\n\nx", (0, 5), places_of("cd\n\nx"), closed=True)
    (row,) = citations(answer_with(Span("", (0, 0), (), True), span), DOCUMENTS)
    assert (row["span"], row["document"], row["start"], row["end"]) == (1, 1, 0, 2)


def test_documents_between_tags_are_taken_out_of_the_question():
    text = (
        'Who?\n<document title="A &amp; B">\n a\n\nb \n</document>\n'
        "<document>c</document> And when?"
    )
    question, found = split_tagged(text)
    assert found == [Document(" a\n\nb ", "A & B"), Document("c")]
    assert question == "Who?\n\n And when?"
    assert split_tagged("no document") == ("no document", [])


def test_documents_are_parts_of_a_message():
    part = {"type": "document", "text": "a\r\n", "title": "A"}
    assert document_of(part, "p") == Document("a\r\n", "A")
    encoded = base64.b64encode("é\r\n".encode()).decode()
    for data in (encoded, f"data:text/plain;base64,{encoded}"):
        file = {"type": "file", "file": {"file_data": data, "filename": "e.txt"}}
        assert document_of(file, "p") == Document("é\r\n", "e.txt")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "document"}, r"p\.text and p\.title must be texts"),
        ({"type": "document", "text": "a", "title": 3}, r"p\.text and p\.title must be texts"),
        ({"type": "file"}, r"p\.file\.file_data is missing; give the file as base64"),
        ({"type": "file", "file": {"file_data": "a b!"}}, "is not base64 of text in UTF-8"),
        ({"type": "file", "file": {"file_data": "/w=="}}, "is not base64 of text in UTF-8"),
    ],
)
def test_a_part_that_holds_no_text_is_refused_by_its_name(part, message):
    with pytest.raises(BadRequest, match=message):
        document_of(part, "p")
