"""A loss that is no number: the run stops, its checkpoints stay, and the batch can be looked at."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax import policy_stages, setup_policy, stages, train
from recallm_jax.config import load_config
from recallm_jax.inputs import prompts_and_texts, train_records
from recallm_jax.setup_policy import set_up

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
    "--config.evaluation.num_examples=1",
    "--config.evaluation.batch_size=1",
]


def poison(monkeypatch, module, name: str, *, after: int) -> None:
    """Let an update see parameters that are no numbers, behind some that it sees as they are."""
    update, calls = getattr(module, name), []

    def run(state, *arguments, **options):
        calls.append(state)
        if len(calls) > after:
            policy = state.policy
            spoilt = jax.tree.map(lambda x: x * math.nan, policy.embedding)
            policy.embedding = spoilt
        return update(state, *arguments, **options)

    monkeypatch.setattr(module, name, run)


@pytest.mark.parametrize(
    ("stage", "module", "update"),
    [
        ("sft2", stages, "sft_update"),
        ("grpo", policy_stages, "policy_update"),
        ("ppo", policy_stages, "policy_update"),
    ],
)
def test_the_batch_is_kept_and_the_checkpoint_before_too(
    stage, module, update, tmp_path, monkeypatch, capsys
):
    config = [*CONFIG, f"--config.stages=('{stage}',)"]
    poison(monkeypatch, module, update, after=1)
    assert train.main([*config, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    path = tmp_path / "bad_batch" / f"{stage}_1.json"
    assert error.startswith("error: ") and f" of {stage} at step 1 is nan; start again" in error
    assert error.endswith(f"what led to it is in {path} and the .npz beside it")
    # The step before is saved, and nothing of this one.
    assert [folder.name for folder in (tmp_path / "checkpoints" / stage).iterdir()] == ["1"]
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0]

    seen, arrays = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    assert (seen["stage"], seen["step"]) == (stage, 1) and seen["metrics"]["loss"] == "nan"
    loaded = load_config(config)
    tokenizer = set_up(loaded).tokenizer
    records = train_records(loaded, tokenizer, 0)
    step = [next(records) for _ in range(4)][2:]
    assert [row["example_id"] for row in seen["prompts"]] == [one.example_id for one in step]
    assert [row["prompt"] for row in seen["prompts"]] == [one.prompt for one in step]
    prompts, _ = prompts_and_texts(step, loaded.data.target_length)
    np.testing.assert_array_equal(arrays["prompt_tokens"], prompts.tokens)
    if stage == "sft2":
        shown = [tokenizer.decode(one.targets) for one in step]
        assert [row["responses"] for row in seen["prompts"]] == [[text] for text in shown]
        return
    size = loaded[stage].group_size
    assert {len(row["responses"]) for row in seen["prompts"]} == {size}
    rewards = [row["rewards"] for row in seen["prompts"]]
    np.testing.assert_array_equal(rewards, arrays["rewards"])
    shape = (2, size, loaded.decoding.max_new_tokens)
    assert arrays["sampler_log_probs"].shape == shape
    assert np.isfinite(arrays["sampler_log_probs"]).all()
    wanted = (2, size, 1) if stage == "grpo" else shape
    assert arrays["advantages"].shape == wanted
    assert ("old_values" in arrays) == ("returns" in arrays) == (stage == "ppo")


def test_weights_that_are_no_numbers_stop_the_first_step(tmp_path, monkeypatch, capsys):
    real = setup_policy.random_transformer

    def spoilt(*arguments):
        model = real(*arguments)
        model.final_norm = jax.tree.map(lambda x: x * jnp.nan, model.final_norm)
        return model

    monkeypatch.setattr(setup_policy, "random_transformer", spoilt)
    assert train.main([*CONFIG, "--config.stages=('sft1',)", f"--workdir={tmp_path}"]) == 2
    assert " of sft1 at step 0 is nan; start again" in capsys.readouterr().err
    assert (tmp_path / "bad_batch" / "sft1_0.json").exists()
    assert list((tmp_path / "checkpoints" / "sft1").iterdir()) == []
