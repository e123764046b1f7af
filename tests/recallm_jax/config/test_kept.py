"""A folder of results keeps the config and the description of the machine that made them."""

import io
import json
import shutil
import subprocess
import tarfile

import pytest

from recallm_jax.config.kept import MAY_CHANGE, TRAINING, keep_config
from recallm_jax.config.load import load_config
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.machine import ROOT, commit_of, write_machine

QUICKSTART = "--config=configs/quickstart.py"


def keep(folder, *overrides, may_change=MAY_CHANGE):
    config = load_config([QUICKSTART, *overrides])
    keep_config(config, folder, may_change=may_change, remedy="give another --workdir")
    return config


def test_the_written_config_and_machine_are_json(tmp_path):
    config = keep(tmp_path / "run")
    write_machine(tmp_path / "run")
    read = json.loads((tmp_path / "run" / "config.json").read_text())
    assert read["stages"] == list(config.stages)
    assert read["optimizer"]["learning_rate"] == config.optimizer.learning_rate
    machine = json.loads((tmp_path / "run" / "machine.json").read_text())
    assert machine["devices"] == "8 x cpu"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "machine.json",
    ]


def test_the_commit_is_found_in_a_clone_and_in_an_archive_of_it(tmp_path):
    clone, archive = tmp_path / "clone", tmp_path / "archive"
    archive.mkdir()
    clone.mkdir()
    shutil.copy(ROOT / ".gitattributes", clone)
    (clone / "COMMIT").write_text("$Format:%H$\n")

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *identity, *arguments], cwd=clone, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init")
    git("add", ".")
    git("commit", "--message=First")
    commit = git("rev-parse", "HEAD").decode().strip()
    assert commit_of(clone) == commit
    with tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD"))) as files:
        files.extractall(archive, filter="data")
    assert commit_of(archive) == commit
    (clone / ".gitattributes").write_text("")
    assert commit_of(clone) == f"{commit}-dirty"
    (archive / "COMMIT").unlink()
    assert commit_of(archive) == "unknown"
    # Not the commit of a repository that happens to contain it.
    (clone / "within").mkdir()
    assert commit_of(clone / "within") == "unknown"


def test_a_restart_keeps_the_date_of_the_start(tmp_path):
    (tmp_path / "machine.json").write_text('{"date": "2001-01-01"}')
    write_machine(tmp_path)
    assert (tmp_path / "machine.json").read_text() == '{"date": "2001-01-01"}'


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.seed=7", r"was made with config\.seed = 0, not 7; give another --workdir"),
        ("--config.data.formats=('csv',)", r"config\.data\.formats = .*not \['csv'\]"),
    ],
)
def test_another_config_is_refused_and_the_first_kept(tmp_path, override, message):
    keep(tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=message):
        keep(tmp_path, override)
    assert (tmp_path / "config.json").read_text() == before


def test_fields_that_change_no_result_may_change(tmp_path):
    keep(tmp_path)
    keep(tmp_path, "--config.mesh.data=2", "--config.evaluation.num_examples=3")
    keep(tmp_path, "--config.grpo.steps=99", may_change=MAY_CHANGE + TRAINING)
    with pytest.raises(UserError, match=r"config\.grpo\.steps = 99, not"):
        keep(tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged .*; delete it"):
        keep(tmp_path)
