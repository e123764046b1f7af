"""A run's policy is restored with its own weights only, even if the shapes of others agree."""

import json

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


def test_adapters_of_another_scale_are_refused(tmp_path):
    """The scale has no array whose shape would tell."""
    lora = [*CONFIG, "--config.model.lora.rank=2", "--config.model.lora.alpha=8"]
    keep_config(load_config(lora), tmp_path / "run", may_change=(), remedy="")
    hold_to_run(load_config(lora), tmp_path / "run", fields=WEIGHTS)
    for field, value, found in (("lora.alpha", 4.0, 8.0), ("lora.rank", 0, 2)):
        config = load_config([*lora, f"--config.model.{field}={value}"])
        message = rf"was made with config\.model\.{field} = {found}, not {value}; give the run's"
        with pytest.raises(UserError, match=message):
            hold_to_run(config, tmp_path / "run", fields=WEIGHTS)


def test_the_adapter_matters_to_the_starting_weights_only(tmp_path):
    keep_config(
        load_config([*CONFIG, "--config.model.adapter=a"]), tmp_path, may_change=(), remedy=""
    )
    config = load_config(CONFIG)
    hold_to_run(config, tmp_path, fields=WEIGHTS)
    with pytest.raises(UserError, match=r"was made with config\.model\.adapter = 'a', not ''"):
        hold_to_run(config, tmp_path, fields=START_WEIGHTS)


def test_the_seed_matters_to_the_starting_weights_only(workdir):
    config = load_config([*CONFIG, "--config.model.weights=smollm2"])
    hold_to_run(config, workdir, fields=WEIGHTS)
    with pytest.raises(UserError, match=r"was made with config\.seed = 1, not 0; give the run's"):
        hold_to_run(config, workdir, fields=START_WEIGHTS)


def test_fields_that_an_earlier_version_lacked_have_the_values_it_had(tmp_path):
    keep_config(load_config(CONFIG), tmp_path, may_change=(), remedy="")
    kept = json.loads((tmp_path / "config.json").read_text())
    del kept["model"]["lora"], kept["model"]["adapter"], kept["decoding"]["paper_compatible"]
    (tmp_path / "config.json").write_text(json.dumps(kept))
    hold_to_run(load_config(CONFIG), tmp_path, fields=(*START_WEIGHTS, "decoding."))
