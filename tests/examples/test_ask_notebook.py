"""The notebook that asks about documents runs from its first cell to its last."""

import json
import pathlib

import pytest

NOTEBOOK = pathlib.Path("examples/ask.ipynb")


def test_the_notebook_runs_and_draws_the_places_of_quotes(monkeypatch, tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from recallm_jax.answering import load
    from tests.oracles.readers import toy_reader

    rows = [{"document": "The lamp was lit in 1874.", "question": f"{n}, when?"} for n in range(3)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("QUESTIONS", str(questions))
    monkeypatch.setattr(load, "load_reader", lambda path: toy_reader())
    drawn = []
    monkeypatch.setattr(
        pyplot, "show", lambda: drawn.extend(pyplot.gca().collections[0].get_offsets().tolist())
    )
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "3 answers with a quote" in capsys.readouterr().out
    assert {number for _, number in drawn} == {0.0, 1.0, 2.0}
    assert all(0 <= place < 1 for place, _ in drawn)


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
