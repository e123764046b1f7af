"""The code of docs/serving.md runs in an environment with PyTorch."""

import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "serving.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_code_for_transformers_prints_an_answer(smollm2, tmp_path, monkeypatch, capsys):
    (code,) = [block for block in BLOCKS if "RecallSpans" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("A recall span is a verbatim copy of the context.\n")
    assert '"runs/trained"' in code and "max_new_tokens=64" in code
    code = code.replace('"runs/trained"', repr(str(smollm2)))
    exec(compile(code.replace("max_new_tokens=64", "max_new_tokens=8"), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_code_for_gguf_tells_copies_from_others(capsys):
    (code,) = [block for block in BLOCKS if "IS NOT A COPY" in block]
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "'12 litres' is a copy\n"
    exec(compile(code.replace("12 litres<", "13 litres<"), str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "'13 litres' IS NOT A COPY\n"
