"""The generate job: the answer to a question about a document, its spans beside their places."""

import pytest

from decoding.sampling import Sampling
from recallm_jax import generate
from recallm_jax.config.load import load_config
from recallm_jax.evaluation.question import DocumentQuestion, answer
from recallm_jax.policy.setup import set_up
from tests.oracles.loops import for_each

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


def test_generate_shows_each_span_beside_its_place(tmp_path, capsys):
    document = tmp_path / "document.txt"
    document.write_text("The lamp was lit in 1874.\nAda Thorne kept it.\n")
    arguments = [f"--document={document}", "--question=Who kept the lamp?", "--quote_first"]
    assert generate.main([*CONFIG, *arguments]) == 0
    out = capsys.readouterr().out
    assert "recall span 1" in out and "of the document: …" in out


@for_each("seed", range(4))
def test_the_places_of_a_span_hold_exactly_its_text(seed):
    limits = ("--config.decoding.max_new_tokens=40", "--config.decoding.max_recall_length=16")
    config = load_config([*CONFIG, f"--config.seed={seed}", *limits])
    context = set_up(config)
    document = "Zürich, 40 km: ½ day by 🚲, ½ hour by 🚆.\n東京: ½ day by 🚲.\n"
    asked = DocumentQuestion(document, "How far?", quote_first=True)
    row = answer(config, context, context.policy, asked, Sampling(temperature=1.0))
    closed = [span for span in row["spans"] if span["closed"]]
    assert closed
    for span in closed:
        assert span["verbatim"] and span["count"] >= len(span["occurrences"]) >= 1
        assert {row["prompt"][slice(*place["chars"])] for place in span["occurrences"]} == {
            span["text"]
        }
        assert row["completion"][slice(*span["response_chars"])] == span["text"]


def test_one_prompt_alone_is_answered_on_many_devices(tmp_path, capsys):
    document = tmp_path / "document.txt"
    document.write_text("The lamp was lit in 1874.\n")
    arguments = [f"--document={document}", "--question=When?", "--quote_first"]
    mesh = ["--config.mesh.data=2", "--config.grpo.micro_batch=2"]
    assert generate.main([*CONFIG, *mesh, *arguments]) == 0
    assert "recall span 1" in capsys.readouterr().out


def test_an_empty_document_is_refused(tmp_path, capsys):
    document = tmp_path / "empty.txt"
    document.write_text(" \n")
    assert generate.main([*CONFIG, f"--document={document}", "--question=?"]) == 2
    assert "error: the document is empty" in capsys.readouterr().err


def test_a_missing_document_is_one_line_and_code_2(capsys):
    assert generate.main([*CONFIG, "--document=none.txt", "--question=?"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --document=none.txt can't be read")
