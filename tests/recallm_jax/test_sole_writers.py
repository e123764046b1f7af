"""A job that would write where another one writes is refused in one line."""

import pytest

from recallm_jax import convert, evaluate, prepare, probe, train
from storage.sole_writer import sole_writer
from tests.oracles.tiny_run import CONFIG

JOBS = {
    "train": (train.main, "{run}", []),
    "evaluate": (evaluate.main, "{run}/eval/mine", ["--label=mine"]),
    "evaluate --shard": (
        evaluate.main,
        "{run}/eval/mine/shards/0_of_2",
        ["--label=mine", "--shard=0/2"],
    ),
    "probe": (probe.main, "{run}/probe/start", []),
}


def refused(capsys):
    error = capsys.readouterr().err.strip().splitlines()[-1]
    return error.startswith("error: ") and "is being written by process " in error


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_refused_where_another_one_writes(job, copied_run, capsys):
    main, place, arguments = JOBS[job]
    folder = copied_run.parent / place.format(run=copied_run.name)
    with sole_writer(folder):
        before = sorted(folder.rglob("*"))
        assert main([*CONFIG, f"--workdir={copied_run}", *arguments]) == 2
        assert refused(capsys) and sorted(folder.rglob("*")) == before


def test_prepare_and_convert_are_refused_where_another_one_writes(trained_run, tmp_path, capsys):
    with sole_writer(tmp_path / "prompts"):
        out = f"--out={tmp_path / 'prompts'}"
        assert prepare.main([*CONFIG, out, "--num_train=1"]) == 2
        assert refused(capsys)
    with sole_writer(tmp_path, by="weights"):
        out = f"--out={tmp_path / 'weights'}"
        assert convert.main([*CONFIG, f"--workdir={trained_run}", out]) == 2
        assert refused(capsys)
    assert not (tmp_path / "weights").exists()
