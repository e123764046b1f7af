"""Every command in the README and in the docstrings of configs and jobs parses; files exist."""

import argparse
import ast
import importlib
import math
import pathlib
import re
import shlex

import pytest

from recallm_jax.config.load import check_evaluation_mesh, check_training_mesh, load_config
from recallm_jax.planning.sizes import model_sizes, preset_sizes
from recallm_jax.policy.setup import check_lengths
from recallm_jax.policy.tiny import RANDOM

DOCUMENTS = [
    pathlib.Path("README.md"),
    pathlib.Path("CONTRIBUTING.md"),
    pathlib.Path("recallm_jax/answering/plain_documents/README.md"),
    *pathlib.Path("launch").glob("*.md"),
    *pathlib.Path("docs").rglob("*.md"),
]
SOURCES = [*pathlib.Path("configs").glob("*.py"), *pathlib.Path("recallm_jax").glob("*.py")]
# A launcher for TPU VMs may come before the command.
LAUNCHED = r"(?:launch/\S+\.sh .*? -- (?:env (?:\w+=\S* )+)?)?"
COMMAND = re.compile(rf"^\s*{LAUNCHED}(?:\S*/)?(?:python3? -m (\S+)|recallm-(\S+))((?: .*)?)$")


def commands(path: pathlib.Path) -> list[str]:
    """Return the lines of a file that run one of our modules, continuation lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if COMMAND.match(line)]
    if path.suffix == ".md":
        blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
        lines = [line for line in blocks.splitlines() if COMMAND.match(line)]
    return [line.strip() for line in lines]


FOUND = sorted({(path.as_posix(), line) for path in DOCUMENTS + SOURCES for line in commands(path)})


def test_there_are_commands_to_test():
    assert len(FOUND) >= 8


class Parsed(Exception):
    """The arguments have been read; the job itself is not to run."""


def stop_after(monkeypatch, owner, name):
    real = getattr(owner, name)

    def parse(*args, **kwargs):
        real(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(owner, name, parse)


@pytest.mark.parametrize(("path", "line"), FOUND)
def test_a_command_parses(path, line, monkeypatch, capsys):
    match = COMMAND.match(line)
    assert match is not None
    name = match[1] or f"recallm_jax.{match[2]}"
    if name.partition(".")[0] in ("venv", "pip", "pytest"):
        return
    module = importlib.import_module(name)
    if not name.startswith("recallm_jax."):
        return
    if hasattr(module, "parse_config"):
        stop_after(monkeypatch, module, "parse_config")
    elif "--config" in match[3]:
        stop_after(monkeypatch, module, "load_config")
    else:
        stop_after(monkeypatch, argparse.ArgumentParser, "parse_args")
    given = shlex.split(match[3].partition(" > ")[0], comments=True)
    with pytest.raises(Parsed):
        module.main(given)
        pytest.fail(capsys.readouterr().err)
    monkeypatch.undo()
    if any(argument.startswith("--config") for argument in given):
        check_as_the_job_does(name, given)


def check_as_the_job_does(name: str, given: list[str]) -> None:
    """Make the checks that a job makes when it has the model, and the devices of all hosts."""
    config = load_config([one for one in given if one.startswith("--config")])
    sizes = model_sizes if config.model.weights == RANDOM else preset_sizes
    check_lengths(config, sizes(config))
    if name in ("recallm_jax.train", "recallm_jax.plan"):
        check_training_mesh(config)
    if name in ("recallm_jax.train", "recallm_jax.plan", "recallm_jax.evaluate"):
        check_evaluation_mesh(config)
    # A mesh of one device would leave the other processes without any.
    assert "--distributed" not in given or math.prod(config.mesh.values()) > 1


def make_targets() -> set[str]:
    text = pathlib.Path("Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_make_targets_exist(path):
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
    named = set(re.findall(r"^make ([a-z][\w-]*)", blocks, re.MULTILINE))
    assert named <= make_targets()


def test_the_promised_targets_exist():
    assert make_targets() >= {"quickstart", "test", "test-slow", "lint", "docs", "bench"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_named_files_exist(path):
    """Files that commands make lie in runs/, site/, .cache/ and .venv/, which a clone lacks."""
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:txt|py|toml))`", text))
    named |= set(re.findall(r"\]\((?!http|#)([^)#]+)", text))
    named |= {found.partition(":")[0] for found in re.findall(r"--config=([^\s\"]+)", text)}
    made = ("runs/", "site/", ".cache/", ".venv/")
    missing = [
        name
        for name in named
        if not name.startswith(made)
        and not (pathlib.Path(name).exists() or (path.parent / name).exists())
    ]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_linked_sections_exist(path):
    text = path.read_text(encoding="utf-8")
    for name, section in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", text):
        linked = (path.parent / name if name else path).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
        assert section in {
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
        }


def test_every_job_has_a_console_command():
    text = pathlib.Path("setup.py").read_text(encoding="utf-8")
    listed = re.search(r"JOBS = \[(.*?)\]", text, re.DOTALL)
    assert listed is not None
    named = re.findall(r'"(\w+)"', listed[1])
    jobs = {path.stem for path in pathlib.Path("recallm_jax").glob("*.py")}
    assert set(named) == jobs - {"__init__", "registered_tasks"}
    for job in named:
        assert callable(importlib.import_module(f"recallm_jax.{job}").main)


def test_the_wheel_holds_every_package_and_every_data_file():
    text = pathlib.Path("setup.py").read_text(encoding="utf-8")
    listed = re.search(r"PACKAGES = \((.*?)\)", text)
    assert listed is not None
    tops = {path.parent.name for path in pathlib.Path().glob("*/__init__.py")}
    # A package of its own, with a wheel of its own.
    tops.remove("recall_spans")
    assert tops == set(re.findall(r'"(\w+)"', listed[1]))
    folders = {path.parent for top in tops for path in pathlib.Path(top).rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    listed = next(
        ast.literal_eval(keyword.value)
        for keyword in ast.walk(ast.parse(text))
        if isinstance(keyword, ast.keyword) and keyword.arg == "package_data"
    )
    shipped = {
        path
        for package, patterns in listed.items()
        for pattern in patterns
        for path in pathlib.Path(package.replace(".", "/")).glob(pattern)
    }
    data = {
        path
        for folder in folders | {path.parent for path in shipped}
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data == shipped
    names = {path.name for path in data}
    assert names >= {"page.css", "nouns.txt", "own_sentences.json", "lost_in_thought.json"}
