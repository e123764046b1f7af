"""The ask job: questions one by one or from a file, and what is wrong with either."""

import io
import json

import pytest

from recallm_jax import ask

DOCUMENT = "The lamp was lit in 1874.\nAda Thorne kept it.\n"


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "document.txt"
    path.write_text(DOCUMENT)
    return str(path)


@pytest.fixture
def asked(trained_run, document):
    """The arguments of a job that asks the tiny run about the document."""
    return [
        *(f"--model={trained_run}", f"--document={document}", "--quote_first"),
        "--max_new_tokens=16",
    ]


def test_one_question_is_answered_with_its_spans_beside_their_places(asked, capsys):
    assert ask.main([*asked, "--question=Who kept the lamp?"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The context says: ")
    assert "recall span 1" in out and "of the document: …" in out


def test_questions_on_standard_input_are_answered_in_turn(asked, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Who kept it?\n\n?\nWhen was it lit?"))
    assert ask.main(asked) == 0
    shown = capsys.readouterr()
    assert shown.out.count("recall span 1") == 2
    assert shown.err.strip().endswith("error: the question '?' has no word; ask in words")


def test_questions_of_a_file_are_answered_as_json(asked, tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    rows = [{"question": "Who kept it?"}, {"question": "When?", "document": "It rang in 1900."}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert ask.main([*asked, f"--questions={file}"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_number = {answer["number"]: answer for answer in answers}
    assert [by_number[n]["question"] for n in range(2)] == ["Who kept it?", "When?"]
    for number, text in enumerate((DOCUMENT, "It rang in 1900.")):
        for span in by_number[number]["spans"]:
            assert {text[low:high] for low, high in span["places"]} <= {span["text"]}
            assert span["places"] or not span["closed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question=a?", "--questions=b"], "give --question or --questions, not both; see"),
        (["--document=none.txt"], "--document=none.txt can't be read: No such file"),
        (["--questions=none.jsonl"], "--questions=none.jsonl can't be read"),
        (["--max_new_tokens=0"], "--max_new_tokens=0: give at least 1"),
        (["--model=none", "--question=a?"], "none does not exist; give the workdir of a run"),
        (["--question=!"], "the question '!' has no word; ask in words"),
        (["--temperature=-1", "--question=a?"], "temperature"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(asked, arguments, message, capsys):
    assert ask.main([*asked, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_without_a_document_there_is_nothing_to_ask_about(trained_run, capsys):
    assert ask.main([f"--model={trained_run}"]) == 2
    assert "error: --document is missing; give a text file" in capsys.readouterr().err
