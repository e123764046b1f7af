"""Advice names fields and their values, and begins with the largest part of the memory."""

import dataclasses

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.planning import table
from recallm_jax.planning.advice import advice
from recallm_jax.planning.chips import CHIPS, GIB
from recallm_jax.planning.compiling import Planned
from recallm_jax.planning.flops import Groups, Work
from recallm_jax.planning.hlo import Traffic
from recallm_jax.planning.lengths import full
from recallm_jax.planning.memory import Allocation, Memory
from recallm_jax.planning.programs import BATCH, OPTIMISER, PARAMETERS, ROLLOUT, Program
from recallm_jax.planning.sizes import preset_sizes

CONFIG = "--config=configs/qwen2_5_7b.py:topology=v5p:4x4x4"


def planned(name, kind, *, arguments, temporaries, caches=None, **options):
    """Return a program with these parts, in GiB."""
    groups, work = Groups(2, 3, 7, full(4)), Work(6e15, 8e15)
    program = Program(name, kind, lambda: None, {}, {}, groups, lambda groups: work, **options)
    memory = Memory(
        arguments={part: round(size * GIB) for part, size in arguments.items()},
        resident={},
        padding=0,
        outputs=0,
        temporaries=round(temporaries * GIB),
        code=0,
    )
    return Planned(
        program,
        memory,
        {part: round(size * GIB) for part, size in (caches or {}).items()},
        refused=False,
        largest=(),
        compiler_flops=1e12,
        traffic=Traffic({"all-gather": 10**9}, {"all-reduce": 10**6}),
        compile_seconds=1.0,
    )


CASES = {
    "an update with large micro-batches": (
        ("grpo.update", "update", {PARAMETERS: 1, OPTIMISER: 2}, 60, None),
        ["--config.grpo.micro_batch=64"],
        ["grpo.micro_batch = 32 (is 64)"],
    ),
    "an update that keeps activations": (
        ("sft2.update", "update", {PARAMETERS: 1}, 60, None),
        ["--config.model.remat=none"],
        ['model.remat = "full" (is "none")'],
    ),
    "an update that can only be split further": (
        ("grpo.update", "update", {PARAMETERS: 1}, 60, None),
        [],
        ["mesh.sequence = 8 and mesh.fsdp = 8"],
    ),
    "logits": (
        ("grpo.update", "update", {PARAMETERS: 1}, 60, None),
        ["--config.model.logits_chunk=1024"],
        ["mesh.sequence = 8", "model.logits_chunk = 512 (is 1024)"],
    ),
    "caches of a rollout": (
        ("grpo.rollout", "decode", {ROLLOUT: 3}, 80, {"prompts": 20, "responses": 55}),
        ["--config.grpo.rollout_parts=2"],
        ["grpo.rollout_parts = 4 (is 2)"],
    ),
    "caches of a rollout of as few prompts as can be": (
        ("grpo.rollout", "decode", {ROLLOUT: 3}, 80, {"prompts": 20, "responses": 55}),
        ["--config.grpo.rollout_parts=8"],
        ["mesh.tensor = 2 and mesh.fsdp = 8"],
    ),
    "caches of an evaluation": (
        ("evaluation.131072", "decode", {ROLLOUT: 3}, 80, {"prompts": 70, "responses": 5}),
        ["--config.evaluation.batch_size=96"],
        ["evaluation.batch_size = 48 (is 96)"],
    ),
    "the state of training": (
        ("sft2.update", "update", {PARAMETERS: 40, OPTIMISER: 80}, 5, None),
        ["--config.mesh.data=2", "--config.mesh.fsdp=8"],
        ["mesh.fsdp = 16 and mesh.data = 1", "more chips: mesh.fsdp = 16"],
    ),
    "parameters of the rollout": (
        ("grpo.rollout", "decode", {ROLLOUT: 50, BATCH: 1}, 1, {"prompts": 0, "responses": 0}),
        [],
        ["mesh.tensor = 2 and mesh.fsdp = 8"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_advice_follows_the_largest_part(case):
    (name, kind, arguments, temporaries, caches), changes, expected = CASES[case]
    config = load_config([CONFIG, *changes])
    one = planned(name, kind, arguments=arguments, temporaries=temporaries, caches=caches)
    found = advice(one, config, preset_sizes(config))
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


def test_taken_advice_passes_the_checks_of_the_config():
    load_config([CONFIG, "--config.mesh.sequence=8", "--config.mesh.fsdp=8"])
    load_config([CONFIG, "--config.grpo.rollout_parts=8"])


def test_a_program_that_does_not_fit_is_reported_in_one_line():
    one = planned("grpo.update", "update", arguments={PARAMETERS: 10}, temporaries=90.0)
    one = dataclasses.replace(
        one, refused=True, largest=(Allocation(12 * GIB, "f32[8,4096]", "jit(f)/dot"),)
    )
    line = table.verdict(one, CHIPS["v5p"], ["do this", "do that"])
    assert line == (
        "grpo.update does not fit: needs 4.27 GiB more a chip (largest array: 12.00 GiB, "
        "f32[8,4096] jit(f)/dot). What would make it fit: do this; or do that."
    )


def test_tables_show_parts_that_sum_to_the_total():
    fits = planned(
        "grpo.rollout",
        "decode",
        arguments={ROLLOUT: 3, BATCH: 1},
        temporaries=6.5,
        caches={"prompts": 2, "responses": 4},
        rounds=1000,
    )
    large = planned("grpo.update", "update", arguments={PARAMETERS: 16}, temporaries=1)
    text = table.memory_table([fits, large], CHIPS["v5e"])
    first, second = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]
    )
    assert first == [
        *("grpo.rollout", "0", "0", "0", "0", "3.00", "1.00", "0", "6.50", "6.00", "0"),
        *("10.50", "15.75", "fits"),
    ]
    assert second[-3:] == ["17.00", "15.75", "does not fit"]
    # A thousand rounds of 10^6 bytes, and 10^9 bytes once.
    work = table.work_table([fits, large], CHIPS["v5e"], 64)
    assert "all-gather 1, all-reduce 1" in work
    row = table.row(large, CHIPS["v5e"], 64, ["more chips"])
    assert row["missing"] == 1.25 * GIB
    assert not row["fits"]
    assert sum(row["memory"]["arguments"].values()) + row["memory"]["temporaries"] == 17 * GIB
