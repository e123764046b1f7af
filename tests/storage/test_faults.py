"""Faults of gs:// end a job with one line that names the path and the remedy; some pass."""

import gcsfs.retry
import pytest

from recallm_jax.runtime.errors import run_job
from storage import faults, files
from tasks.errors import TaskInputError
from tasks.sources.table import find, read_rows


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Make gcsfs wait for no time between its tries; the wait is the smaller of two numbers."""
    monkeypatch.setattr(gcsfs.retry, "min", lambda *seconds: 0.0, raising=False)


def job(argv):
    folder = files.open_folder(argv[0].partition("=")[2])
    files.write_whole(folder / "config.json", "{}")
    files.read_text(folder / "config.json")


def run(path, capsys, code=2) -> str:
    assert run_job(job, [f"--workdir={path}"]) == code
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def test_a_bucket_that_is_not_there(gcs, capsys):
    assert "gs://nowhere-1 does not exist; check the name, and create" in run(
        "gs://nowhere-1/run", capsys
    )


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "needs credentials; log in with gcloud auth application-default login, or name"),
        (403, "can't be used by this account; give it roles/storage.objectUser and"),
        (503, "can't be reached; when the network is back, start the same command again"),
    ],
)
@pytest.mark.parametrize("where", ["/b/{bucket}", "/upload/", "/download/"])
def test_each_fault_is_named_with_its_path_and_remedy(status, remedy, where, bucket, gcs, capsys):
    name = bucket.removeprefix("gs://")
    gcs.faults[where.format(bucket=name)] = [status, None]
    # A fault that may pass by itself is worth another attempt.
    line = run(f"{bucket}/run", capsys, code=75 if status == 503 else 2)
    assert f"error: {bucket}" in line and remedy in line


def test_a_fault_that_passes_is_not_seen(bucket, gcs):
    gcs.faults["/upload/"], gcs.faults["/download/"] = [503, 429], [500]
    assert run_job(job, [f"--workdir={bucket}/run"]) == 0
    assert gcs.faults["/upload/"] == gcs.faults["/download/"] == []


def test_an_unreachable_server_is_a_fault_of_the_network(bucket, monkeypatch, capsys):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    line = run(f"{bucket}/run", capsys, code=75)
    assert f"error: {bucket}/run can't be reached; when the network is back" in line


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('PERMISSION_DENIED: Error writing "gs://bucket/x"', faults.PERMISSION),
        ('UNAVAILABLE: Error reading "gs://bucket/x": CURL error', faults.NETWORK),
        # A missing part of a checkpoint is damage, not a fault of gs://.
        ('NOT_FOUND: Error opening "zarr" driver: gs://bucket/x', None),
        ("UNAVAILABLE: a file of this machine", None),
    ],
)
def test_errors_of_tensorstore_are_told_apart(text, kind):
    assert faults.kind(ValueError(text)) == kind


def test_an_error_of_another_origin_keeps_its_traceback():
    def broken(argv):
        raise ValueError("a fault of the program")

    with pytest.raises(ValueError, match="a fault of the program"):
        run_job(broken, ["--workdir=gs://bucket/run"])


def test_a_fault_on_the_way_to_data_is_the_datas_error(bucket, gcs):
    """A caller such as TensorFlow may know only the errors of the data itself."""
    path = f"{bucket}/data/train.jsonl"
    files.write_whole(files.as_path(path), "{}\n")
    gcs.faults["train.jsonl"] = [401, None]
    with pytest.raises(TaskInputError, match=f"{path} can't be read .* needs credentials; log in"):
        list(read_rows(path))
    gcs.faults["/o?"] = [403, None]
    with pytest.raises(TaskInputError, match=f"{bucket}/data.* can't be used by this account"):
        find(f"{bucket}/data", ["*.jsonl"])
