"""Sizes that can't work are found before a run claims its folder."""

import re
from itertools import islice

import pytest

from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.data.records import train_records
from recallm_jax.policy.setup import set_up
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.training import preflight
from recallm_jax.training.preflight import check_records
from recallm_jax.training.stages import plan_stages
from tasks.prompts.record import write_jsonl

CONFIG = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


def check(*overrides: str) -> None:
    config = load_config([*CONFIG, *overrides])
    context = set_up(config)
    check_records(config, context.tokenizer, plan_stages(config, context))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.target_length=128", "target_length 128 is too short: the question and its gold"),
        ("decoding.max_new_tokens=20", "has .* tokens, more than the 20 there is room for; raise"),
        ("evaluation.lengths=(256,128)", r"config\.evaluation\.lengths = 128: target_length 128"),
        ("model.param_dtype=bfloat16", "would round updates away; train with 'float32'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_folder_is_claimed(
    override, message, tmp_path, capsys
):
    workdir = tmp_path / "run"
    assert train.main([*CONFIG, f"--config.{override}", f"--workdir={workdir}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    # A line about idle devices of the mesh may come first.
    *others, error = captured.err.splitlines()
    assert re.search(f"^error: .*{message}", error)
    assert all(line.startswith("config.mesh uses 1 of 8 devices; ") for line in others)
    assert not workdir.exists()


def test_records_of_every_stage_and_validation_task_are_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr(preflight, "prompts_and_texts", lambda records, _: seen.append(records))
    check("--config.evaluation.num_examples=9")
    *validation, training = seen
    assert [len(records) for records in validation] == [preflight.VALIDATION_RECORDS] * 2
    assert [record.example_id.partition("/")[2] for record in training] == list(map(str, range(12)))


def test_demonstrations_are_required_if_a_stage_learns_from_them():
    check("--config.decoding.max_new_tokens=20", "--config.stages=('grpo',)")


def test_a_step_that_would_hold_a_prompt_twice_is_refused(tmp_path):
    config = load_config(CONFIG)
    records = list(islice(train_records(config, tiny_tokenizer(), 0), 3))
    for name in ("train", *(f"recallm_{name}_val_256" for name in ("retrieval", "math_retrieval"))):
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    source = f"--config.data.source=jsonl:{tmp_path / 'train.jsonl'}"
    check(source, "--config.grpo.prompts_per_step=3", "--config.grpo.micro_batch=3")
    with pytest.raises(UserError, match=r"has 3 examples, fewer than the 4 prompts of a step"):
        check(source, "--config.grpo.prompts_per_step=4", "--config.grpo.micro_batch=4")


def test_the_look_at_long_runs_and_long_prompts_is_bounded(monkeypatch):
    monkeypatch.setattr(preflight, "MOST_TOKENS", 256 * 5)
    counts = []
    monkeypatch.setattr(
        preflight, "check_demonstrations", lambda records, _: counts.append(len(records))
    )
    check("--config.sft2.steps=1000000")
    assert counts == [5]
