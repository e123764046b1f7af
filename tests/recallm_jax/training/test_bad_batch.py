"""A loss of NaN: the run stops, its checkpoints stay, and the batch is kept for inspection."""

import json
import math
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.suffix_index import build_index
from recallm_jax import train
from recallm_jax.config.load import load_config
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.data.records import train_records
from recallm_jax.policy import setup as policy_setup
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError
from recallm_jax.training import policy_gradient, sft
from recallm_jax.training.bad_batch import Inspected, NotFinite, write_bad_batch
from recallm_jax.training.restore import placed_state
from recallm_jax.training.stages import Loop, Progress, batches, plan_stages
from rl.batch import Batch
from tasks.prompts.record import Record

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
    "--config.evaluation.num_examples=1",
    "--config.evaluation.batch_size=1",
]


@pytest.fixture(autouse=True)
def _training_alone(monkeypatch):
    """Leave out evaluations: they take most of the time, and play no part here."""
    for name in ("_evaluate", "_first_look"):
        monkeypatch.setattr(train, name, lambda *arguments: None)


def poison(monkeypatch, module, name: str, *, after: int) -> None:
    """Make the parameters of an update NaN, after `after` updates that see them unchanged."""
    update, calls = getattr(module, name), []

    def run(state, *arguments, **options):
        calls.append(state)
        if len(calls) > after:
            policy = state.policy
            spoilt = jax.tree.map(lambda x: x * math.nan, policy.embedding)
            policy.embedding = spoilt
        return update(state, *arguments, **options)

    monkeypatch.setattr(module, name, run)


@pytest.fixture(scope="module")
def context():
    return set_up(load_config(CONFIG))


def test_a_cold_starts_batch_is_kept_with_its_demonstrations(context, tmp_path, monkeypatch):
    def spoilt(state, responses, **options):
        return state, {"grad_norm": jnp.float32(1.5), "loss": jnp.float32(math.inf)}

    monkeypatch.setattr(sft, "sft_update", spoilt)
    config = load_config(CONFIG)
    stage, done = plan_stages(config, context)[0], []
    message = r"loss of sft1 at step 1 is inf; start again with a lower .* is in (\S+) and the "
    loop = Loop(
        steps=range(1, 2),
        data=batches(config, context, stage, stage.batch_size),
        progress=Progress(stage.batch_size),
        write=lambda *arguments: done.append(arguments),
        save=lambda *arguments: done.append(arguments),
    )
    state = placed_state(context.policy, stage, context)
    with pytest.raises(UserError, match=message), train._bad_batch_kept(context, tmp_path):
        sft.run_sft(config, context, stage, state, loop)
    assert done == []
    path = tmp_path / "bad_batch" / "sft1_1.json"
    seen, arrays = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    assert seen["metrics"] == {"grad_norm": 1.5, "loss": "inf"}
    records = list(islice(train_records(config, context.tokenizer, 2), 2))
    assert seen["prompts"] == [
        {
            "example_id": record.example_id,
            "prompt": record.prompt,
            "responses": [context.tokenizer.decode(record.targets)],
            "rewards": [],
        }
        for record in records
    ]
    lengths = [len(record.inputs) for record in records]
    np.testing.assert_array_equal(arrays["prompt_lengths"], lengths)


def record(example_id: str, inputs: list[int]) -> Record:
    none = np.zeros(len(inputs), bool)
    offsets = np.zeros((len(inputs), 2), np.int32)
    targets = np.zeros(0, np.int32)
    return Record(
        *(example_id, "retrieval", "", np.array(inputs), offsets, none, none, none, targets, {})
    )


def test_the_batch_of_groups_is_kept_with_log_probabilities_and_known_rewards(tmp_path):
    prompts = Prompts(
        tokens=jnp.array([[1, 2, 0], [3, 0, 0]]),
        lengths=jnp.array([2, 1]),
        copyable=jnp.ones((2, 3), bool),
        span_start=jnp.ones((2, 3), bool),
        span_end=jnp.ones((2, 3), bool),
    )
    index = build_index(prompts, num_rows=9, max_length=1, barriers=())
    tokens = jnp.array([[[4, 5], [6, 0]], [[7, 0], [8, 0]]])
    log_probs = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 1]], [[0.5, 1], [1, 1]]]))
    rollout = Rollout(prompts, index, tokens, jnp.array([[2, 1], [1, 0]]), log_probs)
    advantages = jnp.array([[[1.0], [-1.0]], [[0.0], [0.0]]])
    batch = Batch(rollout, advantages, reference_log_probs=2 * log_probs)
    rewards = np.array([[1.0, 0.5], [0.25, np.nan]])
    seen = Inspected([record("b/2", [3]), record("a/1", [1, 2])], rollout, batch, rewards)
    error = NotFinite("grpo", 7, {"reward": 0.5, "kl": math.nan}, seen)
    assert str(error).startswith("kl of grpo at step 7 is nan; ")
    path = write_bad_batch(error, tmp_path, lambda ids: "".join(map(str, ids)))
    assert path == tmp_path / "bad_batch" / "grpo_7.json"
    assert json.loads(path.read_text()) == {
        "stage": "grpo",
        "step": 7,
        "metrics": {"reward": 0.5, "kl": "nan"},
        "prompts": [
            {"example_id": "a/1", "prompt": "12", "responses": ["45", "6"], "rewards": [1.0, 0.5]},
            {"example_id": "b/2", "prompt": "3", "responses": ["7", ""], "rewards": [0.25, None]},
        ],
    }
    arrays = dict(np.load(path.with_suffix(".npz")))
    wanted = {
        "prompt_tokens": prompts.tokens,
        "prompt_lengths": prompts.lengths,
        "response_tokens": tokens,
        "response_lengths": rollout.lengths,
        "rewards": rewards,
        "advantages": advantages,
        "sampler_log_probs": log_probs,
        "reference_log_probs": 2 * log_probs,
    }
    assert arrays.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(arrays[name], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "module", "update"),
    [
        ("sft2", sft, "sft_update"),
        ("grpo", policy_gradient, "policy_update"),
        ("ppo", policy_gradient, "policy_update"),
    ],
)
def test_the_batch_and_the_previous_checkpoint_are_kept(
    stage, module, update, tmp_path, monkeypatch, capsys
):
    config = [*CONFIG, f"--config.stages=('{stage}',)"]
    poison(monkeypatch, module, update, after=1)
    assert train.main([*config, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    path = tmp_path / "bad_batch" / f"{stage}_1.json"
    assert error.startswith("error: ") and f" of {stage} at step 1 is nan; start again" in error
    assert error.endswith(f"its batch is in {path} and the .npz beside it")
    # The step before is saved, and this one is not.
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


@pytest.mark.slow
def test_weights_of_nan_stop_the_first_step(tmp_path, monkeypatch, capsys):
    real = policy_setup.random_transformer

    def spoilt(*arguments):
        model = real(*arguments)
        model.final_norm = jax.tree.map(lambda x: x * jnp.nan, model.final_norm)
        return model

    monkeypatch.setattr(policy_setup, "random_transformer", spoilt)
    assert train.main([*CONFIG, "--config.stages=('sft1',)", f"--workdir={tmp_path}"]) == 2
    assert " of sft1 at step 0 is nan; start again" in capsys.readouterr().err
    assert (tmp_path / "bad_batch" / "sft1_0.json").exists()
    assert list((tmp_path / "checkpoints" / "sft1").iterdir()) == []
