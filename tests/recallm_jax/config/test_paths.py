"""Paths mean the same to every job: homes are homes, and what can't be a path is one clear line."""

import importlib
import pathlib
import re

import pytest

from recallm_jax.config.fields import FIELDS
from recallm_jax.config.load import load_config
from recallm_jax.runtime.errors import UserError
from storage.errors import InputError
from storage.files import as_path, meant_path

CONFIG = "--config=configs/quickstart.py:tiny"
FLAGS = {
    "ask": {"model", "adapter", "document", "questions"},
    "compare": {"figure"},
    "convert": {"source", "workdir", "out"},
    "evaluate": {"workdir", "results"},
    "generate": {"document", "workdir"},
    "plan": {"json"},
    "prepare": {"out"},
    "probe": {"workdir", "figure"},
    "report": {"workdir", "figure"},
    "serve": {"model", "adapter"},
    "train": {"workdir"},
}
BAD = {
    "": "the path is empty; give a file or folder",
    " ": "the path is empty; give a file or folder",
    "None": "the path is None; give a file or folder",
    "gs:/bucket/run": "gs:/bucket/run names no bucket; write gs://bucket/run",
    "gs:bucket": "gs:bucket names no bucket; write gs://bucket",
    "gs:///run": "gs:///run names no bucket; write gs://run",
    "gs://": "gs:// names no bucket; write gs://BUCKET",
    "s3://bucket/run": "s3://bucket/run can't be used; give a local path, or one on gs://",
    "~nobody-of-this-name/run": "there is no user 'nobody-of-this-name'; give ./~nobody",
}
PATH_FIELDS = sorted(name for name, field in FIELDS.items() if field.path)


def flags_of(job):
    """Return the flags of a job that its source declares as paths."""
    text = pathlib.Path(f"recallm_jax/{job}.py").read_text(encoding="utf-8")
    if "add_model_arguments(parser)" in text:
        text += pathlib.Path("recallm_jax/answering/arguments.py").read_text(encoding="utf-8")
    return set(re.findall(r'add_argument\(\s*"--(\w+)",\s*type=path_argument', text))


def test_every_flag_of_a_job_that_is_a_path_is_declared_as_one():
    jobs = {path.stem for path in pathlib.Path("recallm_jax").glob("*.py")}
    found = {job: flags for job in jobs if (flags := flags_of(job))}
    assert found == FLAGS


def test_every_field_whose_sentence_speaks_of_a_file_or_folder_is_declared_as_a_path():
    spoken = {
        name
        for name, field in FIELDS.items()
        if field.kind is str and re.search(r"\b(folder|file|FILE|JSONL)\b", field.about, re.I)
    }
    assert spoken == set(PATH_FIELDS)


@pytest.mark.parametrize(("job", "flag"), [(j, f) for j in FLAGS for f in sorted(FLAGS[j])])
def test_what_cannot_be_a_path_is_refused_with_the_flag(job, flag, capsys):
    main = importlib.import_module(f"recallm_jax.{job}").main
    for bad, message in BAD.items():
        assert main([f"--{flag}={bad}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: argument --{flag}: ") and message in line


@pytest.mark.parametrize("name", PATH_FIELDS)
def test_what_cannot_be_a_path_is_refused_with_the_field(name):
    field = FIELDS[name]
    prefix = "jsonl:" if field.prefixed else ""
    for bad, message in BAD.items():
        # Empties a field that may be empty.
        if not bad or (bad == "None" and field.blank):
            continue
        with pytest.raises(InputError) as refused:
            load_config([CONFIG, f"--config.{name}={prefix}{bad}"])
        assert str(refused.value).startswith(f"config.{name}: ") and message in str(refused.value)


@pytest.mark.parametrize("name", PATH_FIELDS)
def test_a_home_is_a_home_in_every_field(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    prefix = "release:" if FIELDS[name].prefixed else ""
    config = load_config([CONFIG, f"--config.{name}={prefix}~/x"])
    for part in name.split("."):
        config = config[part]
    assert config == f"{prefix}{tmp_path}/x"


def test_words_and_empty_fields_stay_as_they_are():
    config = load_config([CONFIG, "--config.compilation_cache=user", "--config.data.dir="])
    assert config.compilation_cache == "user" and config.data.dir == ""
    assert load_config([CONFIG, "--config.compilation_cache="]).compilation_cache == ""
    assert load_config([CONFIG, "--config.data.system_prompt=none"]).data.system_prompt == "none"


def test_a_required_field_may_not_be_empty():
    with pytest.raises(UserError, match=r"config\.model\.weights is empty; give a text"):
        load_config([CONFIG, "--config.model.weights="])


def test_homes_are_those_of_this_user_and_of_others(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert as_path("~/runs") == pathlib.Path("/home/me/runs")
    assert meant_path("~") == "/home/me"
    assert meant_path("~root/x").endswith("/x") and not meant_path("~root/x").startswith("~")
    assert meant_path("./~x") == "./~x" and meant_path("a~b") == "a~b"
