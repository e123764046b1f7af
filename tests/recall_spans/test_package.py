"""The package stands alone: NumPy is all that it needs, and nothing here needs it."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

FILES = sorted(pathlib.Path("recall_spans").glob("*.py"))
# What each of these modules is for.
BRINGS = {
    "logits": {"torch"},
    "hugging_face": {"torch", "transformers"},
    "vllm_requests": {"transformers"},
    "vllm_v1": {"torch", "vllm"},
    "vllm_v2": {"torch", "vllm"},
}


def imported(path: pathlib.Path) -> set[str]:
    """Return the packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def test_modules_import_only_what_they_are_for():
    assert len(FILES) > 8
    for path in FILES:
        allowed = {"numpy", "recall_spans", *sys.stdlib_module_names, *BRINGS.get(path.stem, ())}
        assert imported(path) <= allowed, path


def test_only_the_benchmark_imports_it():
    ours = ("configs", "decoding", "recallm_jax", "rl", "storage", "tasks")
    found = [p for name in ours for p in pathlib.Path(name).rglob("*.py")]
    importing = re.compile(r"^\s*(from|import) recall_spans", re.MULTILINE)
    assert [p for p in found if importing.search(p.read_text(encoding="utf-8"))] == []


def test_the_wheel_holds_every_module_and_needs_numpy_only(tmp_path):
    copied = tmp_path / "recall_spans"
    copied.mkdir()
    for path in [*FILES, *pathlib.Path("recall_spans").glob("*.[tm][od]*")]:
        (copied / path.name).write_bytes(path.read_bytes())
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copied, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        needed = re.findall(r"^Requires-Dist: (\w+)", archive.read(metadata).decode(), re.M)
    assert {f"recall_spans/{path.name}" for path in FILES} <= set(names)
    assert needed == ["numpy"]
    # Of what the clone holds, nothing else is in it.
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"recall_spans"}
    project = tomllib.loads((copied / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == ["numpy>=1.26"]
