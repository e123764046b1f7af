"""Documents and questions from files, and answers as JSON."""

import json

import pytest

from recallm_jax.answering.answer import Answer, Span
from recallm_jax.answering.files import answer_row, read_document, read_questions
from recallm_jax.runtime.errors import UserError


def test_rows_name_their_document_its_file_or_none(tmp_path):
    text, file = tmp_path / "b.txt", tmp_path / "questions.jsonl"
    text.write_bytes(b"B\r\nb\n")
    rows = [
        {"question": "one?"},
        {"question": "two?", "document": "A"},
        {"question": "three?", "document_file": text.name},
    ]
    file.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read_questions(str(file), "D") == [("D", "one?"), ("A", "two?"), ("B\r\nb\n", "three?")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is not JSON \(.*\); write one object a line"),
        ("[1]", "line 2 is not an object"),
        ('{"q": 1}', "line 2: question = None must be a text"),
        ('{"question": "a?"}', "line 2 has no text as its document; give document or"),
        ('{"question": "a?", "document": 3}', "line 2 has no text as its document"),
        ('{"question": "a?", "document_file": 3}', "line 2: document_file = 3 must be a path"),
        (
            '{"question": "a?", "document_file": "no.txt"}',
            r"line 2: document_file = 'no\.txt' can't be read",
        ),
    ],
)
def test_a_bad_row_is_refused_by_its_line(tmp_path, line, message):
    file = tmp_path / "questions.jsonl"
    file.write_text(f'{{"question": "a?", "document": "A"}}\n{line}\n')
    with pytest.raises(UserError, match=message):
        read_questions(str(file), None)


def test_a_file_without_questions_is_refused(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no question; write one object a line"):
        read_questions(str(file), "D")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"\xff\xfe\0", "it is not UTF-8 text")]
)
def test_a_document_that_cannot_be_read_is_one_line(tmp_path, content, message):
    file = tmp_path / "document.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"can't be read: {message}.*; give a text file"):
        read_document(str(file))


def test_an_answer_is_plain_values():
    answer = Answer(
        *(3, "abab", "Q?", "t ab", "ab"), (Span("ab", (2, 4), ((0, 2), (2, 4)), True),), True, 7, 4
    )
    row = json.loads(json.dumps(answer_row(answer)))
    assert row == {
        "number": 3,
        "question": "Q?",
        "answer": "ab",
        "text": "t ab",
        "finished": True,
        "prompt_tokens": 7,
        "tokens": 4,
        "spans": [{"text": "ab", "closed": True, "chars": [2, 4], "places": [[0, 2], [2, 4]]}],
    }
