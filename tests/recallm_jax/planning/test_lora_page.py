"""The memory that docs/lora.md states for one GPU is that of the config's arrays."""

import pathlib
import re

import jax
import jaxtyping
import pytest

from recallm_jax.config.load import load_config
from recallm_jax.planning import abstract
from recallm_jax.planning.memory import bytes_per_chip
from recallm_jax.planning.programs import GRADIENT, OPTIMISER, OTHERS, PARAMETERS, ROLLOUT, programs

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "lora.md"


@pytest.fixture(autouse=True)
def _without_checks_of_array_types():
    """Fields of dataclasses are typed as arrays, but hold abstract arrays here."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def gigabytes(*trees):
    return round(sum(map(bytes_per_chip, trees)) / 1e9, 2)


def test_the_table_for_one_gpu():
    config = load_config(["--config=configs/qwen2_5_7b_lora.py:topology=gpu"])
    context = abstract.abstract_context(config, jax.devices()[:1])
    found = {program.name: program for program in programs(config, context)}
    rollout, update = found["grpo.rollout"], found["grpo.update"]
    sizes, group = context.policy.config, config.grpo.group_size
    tokens = config.data.target_length + group * config.decoding.max_new_tokens
    moved = max(map(bytes_per_chip, rollout.caches.values())) / 2
    while_decoding = [
        gigabytes(rollout.arguments[ROLLOUT], rollout.resident[PARAMETERS]),
        gigabytes(rollout.resident[OPTIMISER], rollout.resident[OTHERS]),
        gigabytes(*rollout.caches.values()),
        round(moved / 1e9, 2),
    ]
    while_updating = [
        gigabytes(update.arguments[PARAMETERS]),
        gigabytes(update.resident[OPTIMISER], update.resident[OTHERS]),
        gigabytes(update.arguments[GRADIENT]),
        round(sizes.num_layers * tokens * sizes.width * 2 / 1e9, 2),
    ]
    page = PAGE.read_text(encoding="utf-8")
    table = page.split("| | while decoding | while updating |")[1].split("\n\n")[0]
    for column, expected in ((0, while_decoding), (1, while_updating)):
        cells = [line.split("|")[2:4][column] for line in table.splitlines()[2:]]
        *stated, total = [float(cell) for cell in cells if re.search(r"\d", cell)]
        assert stated == expected
        assert total == pytest.approx(sum(expected), abs=0.011)
