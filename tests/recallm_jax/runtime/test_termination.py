"""SIGTERM and Ctrl-C: a step is finished and saved, and the same command goes on."""

import os
import signal

import jax
import numpy as np
import pytest

from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import run_job
from recallm_jax.runtime.metrics import MetricWriter, read_metrics
from recallm_jax.runtime.termination import Terminated, on_sigterm
from recallm_jax.training.restore import restore_policy
from tests.oracles import tiny_run

CONFIG = [
    *tiny_run.CONFIG,
    "--config.stages=('sft1',)",
    "--config.sft1.steps=3",
    # One prompt is enough for an evaluation to be done, and found done.
    "--config.evaluation.num_examples=1",
    "--config.evaluation.batch_size=1",
    "--config.checkpoint.every_steps=99",
]


def final_policy(workdir):
    config = load_config(CONFIG)
    policy, _, step = restore_policy(config, set_up(config), workdir)
    assert step == 3
    return jax.device_get(policy)


@pytest.mark.filterwarnings("ignore")
def test_a_terminated_run_has_saved_its_step_and_goes_on_as_if_uninterrupted(
    tmp_path, monkeypatch, capsys
):
    real = MetricWriter.write

    def terminate(writer, stage, step, metrics):
        real(writer, stage, step, metrics)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    whole, ended = tmp_path / "whole", tmp_path / "ended"
    with monkeypatch.context() as patch:
        # Evaluations take most of the time, and change no policy.
        for name in ("_evaluate", "_first_look"):
            patch.setattr(train, name, lambda *arguments: None)
        assert train.main([*CONFIG, f"--workdir={whole}"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "write", terminate)
        assert train.main([*CONFIG, f"--workdir={ended}"]) == 143
    assert capsys.readouterr().err.endswith("terminated; the same command goes on\n")
    assert [path.name for path in (ended / "checkpoints" / "sft1").iterdir()] == ["2"]
    assert train.main([*CONFIG, f"--workdir={ended}"]) == 0
    steps = [row["step"] for row in read_metrics(ended / "metrics.jsonl")]
    assert steps == [0, 1, 2]
    jax.tree.map(np.testing.assert_array_equal, final_policy(ended), final_policy(whole))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_outside_of_training_steps_sigterm_ends_the_job_at_once():
    with pytest.raises(Terminated), on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal came and went")


def test_a_deferred_signal_ends_the_job_after_the_block():
    reached = []
    with pytest.raises(Terminated), on_sigterm() as termination:
        with termination.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("end of the block")
        reached.append("behind it")
    assert reached == ["end of the block"]


def test_ctrl_c_is_one_line_and_code_130(capsys):
    def job(argv):
        raise KeyboardInterrupt

    assert run_job(job, []) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on\n"


def test_handlers_of_exceptions_do_not_take_the_signal_for_a_fault():
    assert not issubclass(Terminated, Exception)
