"""A run's policy is restored with its own weights only, even if the shapes of others agree."""

import pytest

from recallm_jax import evaluate, generate
from recallm_jax.config.kept import keep_config
from recallm_jax.config.load import load_config
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.restore import START_WEIGHTS, WEIGHTS, hold_to_run

CONFIG = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


@pytest.fixture
def workdir(tmp_path):
    config = load_config([*CONFIG, "--config.model.weights=smollm2", "--config.seed=1"])
    keep_config(config, tmp_path / "run", may_change=(), remedy="")
    return tmp_path / "run"


def test_other_weights_than_the_runs_are_refused(workdir, tmp_path, capsys):
    (tmp_path / "lamp.txt").write_text("The lamp was lit in 1874.\n")
    message = (
        f"error: {workdir} was made with config.model.weights = 'smollm2', not 'random:tiny'; give "
        "the run's own value, or another --workdir"
    )
    question = [f"--document={tmp_path / 'lamp.txt'}", "--question=When?"]
    for job, arguments in (
        (evaluate, []),
        (evaluate, ["--label=start"]),
        (generate, question),
    ):
        assert job.main([*CONFIG, f"--workdir={workdir}", *arguments]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == message


def test_the_seed_matters_to_the_starting_weights_only(workdir):
    config = load_config([*CONFIG, "--config.model.weights=smollm2"])
    hold_to_run(config, workdir, fields=WEIGHTS)
    with pytest.raises(UserError, match=r"was made with config\.seed = 1, not 0; give the run's"):
        hold_to_run(config, workdir, fields=START_WEIGHTS)
