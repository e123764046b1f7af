"""The generate job: the answer to a question about a document, its spans beside their places."""

import pytest

from recallm_jax import generate

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


def test_generate_shows_each_span_beside_its_place(tmp_path, capsys):
    document = tmp_path / "document.txt"
    document.write_text("The lamp was lit in 1874.\nAda Thorne kept it.\n")
    arguments = [f"--document={document}", "--question=Who kept the lamp?", "--quote_first"]
    assert generate.main([*CONFIG, *arguments]) == 0
    out = capsys.readouterr().out
    assert "recall span 1" in out and "of the document: …" in out


def test_one_prompt_alone_is_answered_alike_on_many_devices(tmp_path, capsys):
    document = tmp_path / "document.txt"
    document.write_text("The lamp was lit in 1874.\n")
    arguments = [f"--document={document}", "--question=When?", "--quote_first"]
    shown = []
    for mesh in ([], ["data=2"], ["fsdp=2", "sequence=2", "tensor=2"]):
        sizes = [f"--config.mesh.{axis}" for axis in mesh]
        assert generate.main([*CONFIG, *sizes, *arguments]) == 0
        shown.append(capsys.readouterr().out)
    assert "recall span 1" in shown[0] and shown == [shown[0]] * 3


def test_an_empty_document_is_refused(tmp_path, capsys):
    document = tmp_path / "empty.txt"
    document.write_text(" \n")
    assert generate.main([*CONFIG, f"--document={document}", "--question=?"]) == 2
    assert "error: the document is empty" in capsys.readouterr().err


def test_a_missing_document_is_one_line_and_code_2(capsys):
    assert generate.main([*CONFIG, "--document=none.txt", "--question=?"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --document=none.txt can't be read")
