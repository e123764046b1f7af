"""The paper's whole mixture, and the one without files: read, trained on, evaluated, reported."""

import json

import pytest

from configs.common import PAPER
from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.data.records import train_records
from recallm_jax.policy.setup import load_tokenizer
from recallm_jax.runtime.metrics import read_metrics
from tests.oracles.all_files import write_all
from tests.oracles.task_checks import check_record

# TensorBoard's writer and Orbax warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")
SYNTHETIC = ("majority_vote", "math_retrieval", "multi_niah", "retrieval", "top_n_vote")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_all(folder)
    return folder


def test_every_data_set_gives_examples_of_its_category(data_dir):
    config = load_config(
        [
            *("--config=configs/mixture.py:of=all,tiny", "--config.data.source=generated"),
            f"--config.data.dir={data_dir}",
        ]
    )
    tokenizer = load_tokenizer(config)
    found = set()
    for index, record in zip(range(120), train_records(config, tokenizer, 0), strict=False):
        found.add(record.dataset)
        if index < 60:
            check_record(record, tokenizer, config.data.target_length)
    assert found == set(PAPER)


@pytest.mark.parametrize("of", ["synthetic", pytest.param("all", marks=pytest.mark.slow)])
def test_a_mixture_trains_from_end_to_end(of, data_dir, tmp_path, capsys):
    arguments = [
        f"--config=configs/mixture.py:of={of},tiny",
        *("--config.data.source=generated", f"--config.data.dir={data_dir}"),
        "--config.evaluation.modes=constrained-greedy",
        "--config.evaluation.num_examples=1",
        "--config.evaluation.batch_size=1",
    ]
    stages, labels = ["sft1", "sft2", "grpo"], ["start", "cold_start", "grpo"]
    if of == "synthetic":
        # The run that other tests share has all stages.
        stages, labels = stages[1:], labels[2:]
        # CPUs compute faster in float32.
        arguments += [f"--config.stages={tuple(stages)}", "--config.model.dtype=float32"]
        arguments += [f"--config.evaluation.policies={tuple(labels)}"]
    assert train.main([*arguments, f"--workdir={tmp_path}"]) == 0, capsys.readouterr().err
    names = SYNTHETIC if of == "synthetic" else tuple(sorted(PAPER))
    for label in labels:
        rows = json.loads((tmp_path / "eval" / label / "summary.json").read_text())
        assert [row["dataset"] for row in rows] == list(names)
        assert all(row["metric"] in row["metrics"] for row in rows)
    found = [row["stage"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert found == [stage for stage in stages for _ in range(2)]


@pytest.mark.slow
def test_questions_of_ones_own_train_from_end_to_end(tmp_path, capsys):
    rows = [
        {
            "question": f"How long is the notice of contract {number}?",
            "answer": f"{number} months",
            "document": f"Contract {number}.\nThe notice is {number} months.\nIt is signed.",
        }
        for number in range(2, 60)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "own_questions.jsonl").write_text(text, encoding="utf-8")
    arguments = [
        *("--config=configs/mixture.py:of=own,tiny", f"--config.data.dir={tmp_path}"),
        "--config.evaluation.modes=constrained-greedy",
    ]
    run = tmp_path / "run"
    assert train.main([*arguments, f"--workdir={run}"]) == 0, capsys.readouterr().err
    (row,) = json.loads((run / "eval" / "grpo" / "summary.json").read_text())
    assert (row["dataset"], row["metric"]) == ("own_questions", "exact_match")
    demonstrated = [row.get("demonstrated") for row in read_metrics(run / "metrics.jsonl")]
    assert demonstrated == [1.0] * 4 + [None] * 2
