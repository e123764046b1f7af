"""The stages of a run: their records, their labels, and the metrics of their steps."""

from itertools import islice

import numpy as np
import pytest

from recallm_jax.config.load import load_config
from recallm_jax.data.records import train_records
from recallm_jax.policy.setup import set_up
from recallm_jax.training.rollout_metrics import DrawReport, prompt_means, rollout_metrics
from recallm_jax.training.speed import TokenCounts
from recallm_jax.training.stages import batches, plan_stages, policy_label
from rl.rewards.composite import Completion, Reward
from rl.rollout_text import NO_REWARD, GroupRewards, RolloutText

CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.sft2.steps=3",
    "--config.grpo.prompts_per_step=4",
]


@pytest.fixture(scope="module")
def config():
    return load_config(CONFIG)


@pytest.fixture(scope="module")
def context(config):
    return set_up(config)


def ids(records):
    return [record.example_id for record in records]


def test_no_two_stages_use_the_same_record(config, context):
    planned = plan_stages(config, context)
    # 2 steps of 2 records, 3 of 2, 2 of 4.
    assert [(stage.name, stage.first_record, stage.batch_size) for stage in planned] == [
        ("sft1", 0, 2),
        ("sft2", 4, 2),
        ("grpo", 10, 4),
    ]
    used = [
        example_id
        for stage in planned
        for records in islice(batches(config, context, stage, 0), stage.steps)
        for example_id in ids(records)
    ]
    assert used == ids(islice(train_records(config, context.tokenizer, 0), 18))
    assert len(set(used)) == 18


def test_a_resumed_stage_reads_what_it_would_have_read(config, context):
    for stage in plan_stages(config, context):
        whole = [ids(records) for records in islice(batches(config, context, stage, 0), 3)]
        resumed = [
            ids(records) for records in islice(batches(config, context, stage, stage.batch_size), 2)
        ]
        assert resumed == whole[1:]


@pytest.mark.parametrize(
    ("names", "number", "step", "label"),
    [
        (("sft1", "sft2", "grpo"), 0, 2, "sft1"),
        (("sft1", "sft2", "grpo"), 1, 3, "cold_start"),
        (("sft1", "sft2", "grpo"), 1, 2, "sft2_step2"),
        (("sft1", "sft2", "grpo"), 2, 1, "grpo_step1"),
        (("sft1", "sft2", "grpo"), 2, 2, "grpo"),
        (("sft1", "grpo"), 0, 2, "cold_start"),
        (("sft1",), 0, 2, "cold_start"),
        (("grpo",), 0, 2, "grpo"),
    ],
)
def test_a_policy_has_the_label_of_the_stage_it_has_reached(context, names, number, step, label):
    config = load_config([*CONFIG, f"--config.stages={names}"])
    assert policy_label(config, plan_stages(config, context)[number], step) == label


def completion(num_tokens, spans, *, finished):
    return Completion("", num_tokens, spans, len(spans), len(spans), finished)


def reward(total, answer, exact_match):
    return Reward(total, 1.0, answer, 0.5, 0.25, 1.0, 0.0, exact_match)


def test_the_metrics_of_a_step_by_hand():
    groups = [
        [completion(10, ("a",), finished=True), completion(30, (), finished=False)],
        [completion(20, ("a", "b"), finished=True), completion(20, (), finished=True)],
    ]
    rewards = [
        [reward(0.8, 1.0, 1.0), reward(0.4, 0.0, 0.0)],
        [reward(0.6, 0.25, 0.0), NO_REWARD],
    ]
    # Shaped for length: the second response lost half of its reward.
    totals = np.array([[0.8, 0.2], [0.6, 0.6]], np.float32)
    # Only its completions are read.
    rollout = object.__new__(RolloutText)
    object.__setattr__(rollout, "completions", groups)
    known = np.array([[True, True], [True, False]])
    scored = GroupRewards(totals, rewards, known, problems=["example/3, response 1: it raised"])
    tokens = TokenCounts(np.array([5, 8]), np.array([[10, 30], [20, 20]]))
    report = DrawReport(totals, known, scored.problems, prompt_means(rollout, scored), tokens)
    assert rollout_metrics([report]) == pytest.approx(
        {
            # The mean over the responses that have one.
            "reward": 1.6 / 3,
            "groups_with_spread": 0.5,
            "draws": 1.0,
            "without_reward": 1.0,
            "exact_match": 1 / 3,
            "prompt_tokens": 6.5,
            "response_tokens": 20.0,
            "finished": 0.75,
            "spans": 0.75,
            "reward_format": 1.0,
            "reward_answer": 1.25 / 3,
            "reward_retrieval": 0.5,
            "reward_overlap": 0.25,
            "reward_usage": 1.0,
            "reward_density": 0.0,
        }
    )
