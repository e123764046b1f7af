"""Pages name existing modules and functions, the API pages have every module, the site builds."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from recallm_jax.config.fields import FIELDS
from tasks.suites import registry
from tasks.suites.helmet import suite as helmet

PACKAGES = ("benchmarks", "configs", "decoding", "recallm_jax", "rl", "storage", "tasks")
PAGES = [
    pathlib.Path("README.md"),
    pathlib.Path("CONTRIBUTING.md"),
    *pathlib.Path("launch").glob("*.md"),
    *pathlib.Path("docs").rglob("*.md"),
]
NAME = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`")


BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_a_name_that_no_longer_exists_is_noticed():
    assert exists("rl.losses") and exists("rl.losses.kl_k3") and exists("decoding.policy.Policy")
    assert not exists("rl.gone") and not exists("rl.losses.gone")


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_named_modules_and_functions_exist(path):
    named = set(NAME.findall(path.read_text(encoding="utf-8")))
    # `tasks.md` is a page, and `decoding.constrained` a field of a config.
    named = {name for name in named if not name.endswith(".md")} - FIELDS.keys()
    assert [name for name in sorted(named) if not exists(name)] == []


def code_names(code: str) -> set[str]:
    """Return the dotted names of ours that a script imports, or uses of modules that it imports."""
    tree = ast.parse(code)
    named, modules = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                named.add(alias.name)
                local = alias.asname or alias.name.partition(".")[0]
                modules[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                modules[alias.asname or alias.name] = name = f"{node.module}.{alias.name}"
                named.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id, "")
            # Fields of an imported class are not attributes of it.
            if not module.rpartition(".")[2][:1].isupper():
                named.add(f"{module}.{node.attr}")
    return {name for name in named if name.partition(".")[0] in PACKAGES}


def test_names_of_ours_in_code_are_found():
    code = """
import json
import rl.losses
from tasks import suites as benchmarks
from tasks.suites.registry import register

benchmarks.register(json.loads(rl.losses), register, other.name)
"""
    assert code_names(code) == {
        *("rl.losses", "tasks.suites", "tasks.suites.register", "tasks.suites.registry.register")
    }


@pytest.mark.parametrize("path", [path for path in PAGES if BLOCK.search(path.read_text("utf-8"))])
def test_code_in_pages_names_what_exists(path):
    for code in BLOCK.findall(path.read_text(encoding="utf-8")):
        assert [name for name in sorted(code_names(code)) if not exists(name)] == []


def test_the_script_that_gives_helmets_judges_runs(monkeypatch):
    (code,) = BLOCK.findall(pathlib.Path("docs/tasks.md").read_text(encoding="utf-8"))
    monkeypatch.setattr(registry, "SUITES", dict(registry.SUITES))
    monkeypatch.setattr(registry, "OVERALL", dict(registry.OVERALL))
    monkeypatch.setattr("recallm_jax.evaluate.main", lambda argv: 0)
    try:
        with pytest.raises(SystemExit) as ended:
            exec(compile(code, "docs/tasks.md", "exec"), {"__name__": "__main__"})
        assert ended.value.code == 0
        names = {task.name for task in registry.suite_tasks(["helmet"])}
        assert names == {task.name for task in helmet.helmet()}
        assert registry.SUITES["helmet"] is not helmet.helmet
    finally:
        registry._all_tasks.cache_clear()


@pytest.mark.parametrize("package", ["decoding", "rl"])
def test_the_api_page_has_every_module(package):
    text = pathlib.Path(f"docs/api/{package}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    files = [path for path in pathlib.Path(package).rglob("*.py") if path.name != "__init__.py"]
    assert sorted(listed) == sorted(".".join(path.with_suffix("").parts) for path in files)


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_pages_cite_only_files_that_users_have(path):
    assert not re.search(r"\b(METHOD|DESIGN|LAYOUT|STYLE|FAULTS)\b", path.read_text("utf-8"))


def test_drawings_load_nothing():
    for path in pathlib.Path("docs").rglob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "href" not in text and "url(http" not in text and "@import" not in text


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="installed by `make docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(\S+)", text)
        assert not [one for one in loaded if one.startswith(("http", "//"))], page
