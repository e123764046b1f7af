"""Files behave alike on gs:// and in a local folder, and an interrupted write changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage import files
from storage.errors import InputError
from tasks.errors import TaskInputError
from tasks.prompts.record import read_jsonl
from tasks.sources.table import find, read_rows
from tests.oracles.tiny_models import ROOT


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    if request.param == "local":
        return tmp_path
    return files.as_path(request.getfixturevalue("bucket") + "/run")


def test_a_text_comes_back_and_replaces_the_one_before(folder):
    path = folder / "summary.json"
    for text in ("first, Zürich\n", "second\r\n\n", ""):
        files.write_whole(path, text)
        assert path.read_bytes() == text.encode()
    assert files.read_text(path) == ""
    assert [child.name for child in folder.iterdir()] == ["summary.json"]


def test_an_interrupted_write_leaves_the_old_file(folder):
    path = folder / "train.jsonl"
    files.write_whole(path, "before")
    with pytest.raises(KeyboardInterrupt), files.written_whole(path) as file:
        file.write_text("half of wh")
        raise KeyboardInterrupt
    assert files.read_text(path) == "before"


def test_text_is_added_at_the_end(folder):
    path = folder / "metrics.jsonl"
    for line in ("one\n", "zwölf\n"):
        with files.appending(path) as add:
            add(line)
            add("")
    assert files.read_text(path) == "one\nzwölf\n"
    with files.appending(folder / "empty.jsonl"):
        pass
    assert (folder / "empty.jsonl").exists()


def test_text_that_was_added_before_an_error_is_kept(folder):
    path = folder / "rows.jsonl"
    with pytest.raises(ZeroDivisionError), files.appending(path) as add:
        add("one\n")
        raise ZeroDivisionError
    assert files.read_text(path) == "one\n"


def test_a_file_that_grows_on_gs_is_written_as_often_as_said(bucket, monkeypatch):
    path = files.as_path(bucket) / "rows.jsonl"
    with files.appending(path) as add:
        add("one\n")
        assert not path.exists()
        monkeypatch.setattr(files, "REWRITE_SECONDS", 0.0)
        add("two\n")
        # A program that is killed here has lost nothing.
        assert files.read_text(path) == "one\ntwo\n"
        monkeypatch.setattr(files, "REWRITE_SECONDS", 30.0)
        add("three\n")
        assert files.read_text(path) == "one\ntwo\n"
    assert files.read_text(path) == "one\ntwo\nthree\n"


# aiohttp's, for the benefit of gcsfs.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_file_larger_than_one_request_comes_back(bucket, tmp_path):
    content = bytes(range(256)) * (6 << 12)
    path = files.as_path(bucket) / "model.safetensors"
    with files.written_whole(path) as file:
        file.write_bytes(content)
    assert path.read_bytes() == content


def test_data_sets_are_found_and_read_on_gs(bucket, gcs):
    name = bucket.removeprefix("gs://")
    folder = files.as_path(bucket) / "data"
    files.write_whole(folder / "qa_train.jsonl", '{"id": 1}\n{"id": 2}\n')
    (path,) = find(str(folder), ("*_train.json", "*_train.jsonl"))
    assert path == f"{bucket}/data/qa_train.jsonl"
    assert list(read_rows(path)) == [{"id": 1}, {"id": 2}]
    gcs.write(name, "data/qa_train.jsonl", b'{"id": 3}\n')
    # Listings are not cached, because others write to the folder too.
    assert list(read_rows(path)) == [{"id": 3}]


def test_missing_and_malformed_records_on_gs_are_named(bucket):
    path = files.as_path(bucket) / "train.jsonl"
    with pytest.raises(TaskInputError, match=f"{path} does not exist; write it with"):
        list(read_jsonl(path))
    files.write_whole(path, "{}\n")
    with pytest.raises(TaskInputError, match=f"{path}, line 1: not a valid record"):
        list(read_jsonl(str(path)))


def test_another_kind_of_url_is_refused():
    with pytest.raises(InputError, match=r"s3://bucket/run can't be used; give a local path"):
        files.as_path("s3://bucket/run")


def test_a_local_path_is_an_ordinary_one():
    assert files.as_path("runs/a") == Path("runs/a")
    assert type(files.as_path("runs/a")) is type(Path("runs/a"))


def test_gs_needs_no_tensorflow(bucket):
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from storage import files\n"
        f"path = files.open_folder('{bucket}/run') / 'a.txt'\n"
        "files.write_whole(path, 'without')\n"
        "print(files.read_text(path), path.exists(), list(path.parent.glob('*.txt')) == [path])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "without True True", done.stderr
