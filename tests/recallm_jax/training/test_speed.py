"""Tokens, padding and rates of a step, by hand."""

import numpy as np
import pytest

from decoding.packing import RowSize
from recallm_jax.config.load import load_config
from recallm_jax.planning.chips import CHIPS, peak_flops
from recallm_jax.planning.flops import Groups, score_flops, unembed_flops, update_flops
from recallm_jax.planning.lengths import full
from recallm_jax.training import speed
from recallm_jax.training.sft import demonstrated
from recallm_jax.training.speed import (
    TokenCounts,
    count_tokens,
    padding_of,
    rollout_speed,
    update_speed,
)
from rl.packing import pack
from tests.oracles.consoles import toy_context
from tests.oracles.toy_decoding import ROWS, RULES, SIZE, make_prompts

GROUPS = Groups(2, 3, 8, full(4))
FULL = TokenCounts(np.full(2, 8), np.full((2, 3), 4))
RAGGED = TokenCounts(np.array([8, 4]), np.array([[4, 1, 0], [2, 3, 2]]))


@pytest.fixture(scope="module")
def context():
    return toy_context(load_config(["--config=configs/quickstart.py:tiny"]))


def test_the_tokens_and_the_padding_of_a_rollout_are_counted():
    prompts = make_prompts(seed=1)
    lengths = np.arange(8, dtype=np.int32).reshape(4, 2)
    tokens = np.zeros((4, 2, 9), np.int32)
    rollout = demonstrated(prompts, tokens, lengths, rules=RULES, num_rows=ROWS)
    found = count_tokens(rollout)
    assert found.prompts.tolist() == np.asarray(prompts.lengths).tolist()
    assert found.responses.tolist() == lengths.tolist()
    assert RAGGED.real == 24
    # Two prompts at a time, of 1 + 5 and of 9 + 13 tokens.
    packing = pack(lengths, (RowSize(1, 6), RowSize(2, 9)), 2)
    positions = 4 * SIZE + 2 * 6 + 2 * 2 * 9
    assert padding_of(rollout, packing) == pytest.approx(1 - found.real / positions)


def test_rates_count_each_prompt_once_and_no_padding(context):
    found = rollout_speed(context, [FULL, RAGGED], 4.0)
    # 2 prompts of 8 tokens and 6 responses of 4; then 24 tokens.
    assert found == {"tokens_per_second_rollout": (40 + 24) / 4}
    found = update_speed(context, RAGGED, 0.5, epochs=3)
    assert found == {"tokens_per_second_update": 3 * 24 / 0.5}


def test_utilisation_is_of_the_peak_of_all_devices(context, monkeypatch):
    assert context.mesh.size == 1
    monkeypatch.setattr(speed, "peak_flops", lambda kind: 1e9)
    sizes = context.policy.config
    found = update_speed(context, FULL, 2.0, epochs=3)["mfu_update"]
    assert found == pytest.approx(3 * update_flops(sizes, GROUPS).model / 2.0 / 1e9)
    # A second model has no logits.
    more = update_speed(context, FULL, 2.0, separate_critic=True)["mfu_update"]
    forward = 2 * score_flops(sizes, GROUPS).model - 24 * unembed_flops(sizes)
    assert more == pytest.approx(3 * forward / 2.0 / 1e9)
    found = rollout_speed(context, [FULL, FULL], 2.0)["mfu_rollout"]
    forward = score_flops(sizes, GROUPS).model + 2 * unembed_flops(sizes)
    assert found == pytest.approx(2 * forward / 2.0 / 1e9)
    two = toy_context(load_config(["--config=configs/quickstart.py:tiny", "--config.mesh.fsdp=2"]))
    assert rollout_speed(two, [FULL, FULL], 2.0)["mfu_rollout"] == pytest.approx(found / 2)


def test_the_peaks_are_those_of_the_chips_by_the_names_that_jax_has_for_them():
    assert peak_flops("TPU v5 lite") == CHIPS["v5e"].peak_flops
    assert peak_flops("TPU v5") == peak_flops("TPU v5p") == CHIPS["v5p"].peak_flops
    assert peak_flops("TPU v6 lite") == CHIPS["v6e"].peak_flops
    assert peak_flops("NVIDIA H200") == 989e12
    # A processor has no peak that is worth comparing with.
    assert peak_flops("cpu") is None
