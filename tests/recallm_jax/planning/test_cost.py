"""The least time of a run against sums over sampled lengths, step by step and row by row."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from recallm_jax.planning import cost, table
from recallm_jax.planning.chips import CHIPS
from recallm_jax.planning.estimate import at_least
from recallm_jax.planning.flops import Groups, Work
from recallm_jax.planning.hlo import BETWEEN_SLICES, Traffic
from recallm_jax.planning.lengths import full, of_lengths
from recallm_jax.planning.programs import ROLLOUT, Program
from recallm_jax.runtime.errors import UserError

PROMPTS, GROUP, LENGTH, LIMIT = 3, 4, 10, 16
# Each operation and each byte takes a second.
CHIP = dataclasses.replace(CHIPS["v5e"], peak_flops=1.0, hbm_bandwidth=1.0, ici_bandwidth=1.0)
SLOW_MEMORY = dataclasses.replace(CHIP, peak_flops=1e9, ici_bandwidth=1e9)
SLOW_NETWORK = dataclasses.replace(CHIP, peak_flops=1e9, hbm_bandwidth=1e9)
SENT = Traffic({"all-gather": 1000, BETWEEN_SLICES: 10**9}, {"all-reduce": 8})


def described(size):
    (device,) = jax.devices()[:1]
    return jax.ShapeDtypeStruct((size,), "int8", sharding=jax.sharding.SingleDeviceSharding(device))


def program(name, kind, *, runs=1, **options):
    """Return a program that takes three operations a token, of which two are the model's."""

    def count(groups):
        return Work(2 * groups.tokens, 3 * groups.tokens)

    groups = Groups(PROMPTS, GROUP, LENGTH, full(LIMIT))
    arguments = options.pop("arguments", {})
    return Program(name, kind, lambda: None, arguments, {}, groups, count, runs=runs, **options)


# Keys and values: 20 bytes of each prompt, and 5 bytes of each token of a response.
DECODE = {
    "arguments": {ROLLOUT: described(700)},
    "rounds": LIMIT,
    "caches": {"prompts": described(PROMPTS * 20), "responses": described(12 * LIMIT * 5)},
}


def read_by_hand(groups):
    """Count the bytes of decoding: step by step, and for each group and row that lives."""
    total = 0
    for step in range(LIMIT):
        living = [[length for length in group if length > step] for group in groups]
        total += 700 * any(living)
        total += sum(20 for rows in living if rows)
        total += sum(5 * step for rows in living for _ in rows)
    return total


def test_decoding_reads_what_living_rows_need():
    everywhere = np.full((PROMPTS, GROUP), LIMIT)
    one = program("grpo.rollout", "decode", **DECODE)
    bound = at_least(one, SLOW_MEMORY, 1, traffic=None)
    assert bound.seconds == bound.memory == read_by_hand(everywhere)
    # The expectation over batches whose rows are drawn independently from these lengths.
    lengths = [1, 2, 2, 3, 5, 9, 16]
    expected = at_least(one, SLOW_MEMORY, 1, traffic=None, responses=of_lengths(lengths, LIMIT))
    drawn = np.random.default_rng(0).choice(lengths, size=(4000, PROMPTS, GROUP))
    assert expected.memory == pytest.approx(np.mean([read_by_hand(d) for d in drawn]), rel=0.01)
    assert expected.memory < 0.9 * bound.memory


def test_arithmetic_and_traffic_follow_the_tokens():
    update, decode = program("u", "update"), program("d", "decode", **DECODE)
    lengths = of_lengths([2, 6], LIMIT)
    tokens, all_tokens = PROMPTS * LENGTH + 12 * 4, PROMPTS * LENGTH + 12 * LIMIT
    bound = at_least(update, CHIP, 4, traffic=None, responses=lengths)
    assert bound.seconds == bound.arithmetic == 3 * tokens / 4
    assert bound.memory == bound.interconnect == 0
    full_update = at_least(update, SLOW_NETWORK, 4, traffic=SENT)
    assert full_update.seconds == full_update.interconnect == 1000
    shorter = at_least(update, SLOW_NETWORK, 4, traffic=SENT, responses=lengths)
    assert shorter.interconnect == pytest.approx(1000 * tokens / all_tokens)
    # A round of decoding sends for the rows that live; prompts are sent once.
    rounds = at_least(decode, SLOW_NETWORK, 4, traffic=SENT, responses=lengths)
    assert rounds.interconnect == 1000 + 8 * 4
    assert at_least(decode, SLOW_NETWORK, 4, traffic=SENT).interconnect == 1000 + 8 * LIMIT


CONFIG = ConfigDict(
    {
        "stages": ("sft2", "grpo"),
        "sft2": {"steps": 10},
        "grpo": {"steps": 100},
        "data": {"target_length": LENGTH},
        "decoding": {"max_new_tokens": LIMIT},
    }
)
PROGRAMS = [
    program("sft2.update", "update"),
    program("grpo.reshard", "reshard"),
    program("grpo.rollout", "decode", runs=2, **DECODE),
    program("grpo.reference", "score"),
    program("grpo.old", "score"),
    program("grpo.update", "update", runs=3),
    program("evaluation.10", "decode", **DECODE),
]


def test_a_run_is_the_sum_of_its_steps_and_all_chips_are_paid():
    machine = cost.Machine(CHIP, mesh_chips=3, all_chips=4)
    lengths = of_lengths([2, 6], LIMIT)
    sent = {one.name: Traffic({}, {}) for one in PROGRAMS}
    least = cost.least_time(CONFIG, PROGRAMS, machine, sent, responses=lengths, price=36.0)
    whole, short = PROMPTS * LENGTH + 12 * LIMIT, PROMPTS * LENGTH + 12 * 4
    for name, given, tokens in (("full", None, whole), ("expected", lengths, short)):
        cold, grpo = least.times[name].stages
        # Demonstrations keep their full length; three operations a token, on three chips.
        assert (cold.name, cold.steps, cold.parts) == ("sft2", 10, {"update": whole})
        assert grpo.parts["scores"] == 2 * tokens
        assert grpo.parts["update"] == 3 * tokens
        # Two rollouts read more than they compute; the policy is laid out for them once.
        read = at_least(PROGRAMS[2], CHIP, 3, traffic=None, responses=given)
        assert read.memory > tokens
        assert grpo.parts["rollout"] == tokens + 2 * read.memory
        seconds = 10 * whole + 100 * (6 * tokens + 2 * read.memory)
        assert least.times[name].seconds == pytest.approx(seconds)
        # 36 a chip-hour is a hundredth a second, for each of four chips.
        found = cost.as_json(least)[f"{name}_lengths"]
        assert found["cost"] == pytest.approx(seconds * 4 / 100)
        assert found["stages"]["grpo"]["step"] == pytest.approx(6 * tokens + 2 * read.memory)
    text = table.time_table(least)
    assert "| a step of grpo" in text and "| cost at 36 a chip-hour" in text
    assert "evaluation" not in text
    assert len(least.notes) == 2


def test_the_notes_say_what_is_assumed_and_what_is_not_counted():
    machine = cost.Machine(CHIP, mesh_chips=4, all_chips=4)
    sent = {one.name: SENT for one in PROGRAMS if one.name != "grpo.old"}
    least = cost.least_time(CONFIG, PROGRAMS, machine, sent, responses=of_lengths([2, 6], LIMIT))
    assert list(least.notes) == [
        "full lengths: prompts of 10 tokens, responses of 16",
        "expected lengths: those of 2 responses with mean 4, cut at 16 tokens; the longest of 12 "
        "decoded together has 6; prompts and demonstrations at full length",
        "not compiled, so without what chips send: grpo.old",
    ]
    assert "cost" not in table.time_table(least)
    assert "cost" not in cost.as_json(least)["full_lengths"]


@pytest.mark.parametrize("text", ["-1", "free", "nan", "inf", ""])
def test_a_price_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=f"--price_per_chip_hour={text} is not a price; give a num"):
        cost.parse_price(text)
    assert cost.parse_price(None) is None
    assert cost.parse_price("4.2") == 4.2
