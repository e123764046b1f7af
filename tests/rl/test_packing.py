"""Responses in rows: every token has one place, whatever the lengths, and little is padded."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.packing import RowSize, Slots, lay_out
from rl.packing import one_a_row, pack
from rl.row_sizes import row_sizes

LIMIT, GROUP, PROMPT = 512, 8, 256


def log_normal(seed, num_prompts, *, mean=LIMIT / 5, group=GROUP):
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean) - 0.5, 1.0, (num_prompts, group))
    return np.clip(np.ceil(drawn), 0, LIMIT).astype(np.int32)


def places_by_hand(slots, lengths, size):
    """Return for each position the response and the token, or (-1, -1)."""
    found = np.full((len(lengths), *size, 2), -1)
    for prompt, group in enumerate(lengths):
        for response, length in enumerate(group):
            row, start = slots.row[prompt, response], slots.start[prompt, response]
            for token in range(length):
                assert (found[prompt, row, start + token] == -1).all()
                found[prompt, row, start + token] = response, token
    return found


def test_a_layout_gives_each_token_its_slots_position_and_its_value_back():
    lengths, size = np.array([[3, 1, 0, 2], [4, 4, 1, 1]], np.int32), RowSize(2, 6)
    packing = pack(lengths, (size,), 1)
    layout = lay_out(packing.slots, jnp.asarray(lengths), size, 4)
    expected = places_by_hand(packing.slots, lengths, size)
    np.testing.assert_array_equal(layout.real, expected[..., 0] >= 0)
    np.testing.assert_array_equal(layout.response, np.maximum(expected[..., 0], 0))
    np.testing.assert_array_equal(layout.place, np.maximum(expected[..., 1], 0))
    values = jnp.arange(1.0, 33.0).reshape(2, 4, 4)
    real = np.arange(4) < lengths[..., None]
    back = layout.of_responses(layout.in_rows(values))
    np.testing.assert_array_equal(back, np.where(real, values, 0))
    # Each value has its own gradient, and only tokens have one.
    gradient = jax.grad(lambda x: (layout.of_responses(layout.in_rows(x)) * values).sum())(values)
    np.testing.assert_array_equal(gradient, np.where(real, values, 0))


def test_one_response_a_row_is_the_layout_of_padded_responses():
    packing = one_a_row(2, 3, 5, num_parts=2)
    ((size, first, last),) = packing.runs
    assert (size, first, last) == ((3, 5), 0, 2)
    layout = lay_out(packing.slots, jnp.full((2, 3), 5), size, 5)
    tokens = jnp.arange(30).reshape(2, 3, 5)
    np.testing.assert_array_equal(layout.in_rows(tokens), tokens)
    assert layout.real.all()


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("num_parts", [1, 4, 8])
def test_every_response_lies_in_one_row_and_no_two_overlap(parts, num_parts):
    sizes = row_sizes(limit=LIMIT, group_size=GROUP, prompt_length=PROMPT, parts=parts)
    for seed in range(3):
        lengths = log_normal(seed, 8)
        # A response without a reward is empty.
        lengths[seed, 0] = 0
        sizes = sizes.chosen_for(lengths, num_parts)
        packing = pack(lengths, sizes.chosen, num_parts)
        assert sorted(packing.order) == list(range(8))
        numbers = [number for _, first, last in packing.runs for number in range(first, last)]
        assert numbers == list(range(num_parts))
        for size, first, last in packing.runs:
            assert size in sizes.chosen
            for number in range(first, last):
                prompts = packing.order[number::num_parts]
                slots = Slots(packing.slots.row[prompts], packing.slots.start[prompts])
                found = places_by_hand(slots, lengths[prompts], size)
                assert (found[..., 0] >= 0).sum() == lengths[prompts].sum()


def test_micro_batches_hold_groups_of_similar_size():
    lengths = log_normal(0, 16)
    packing = pack(lengths, (RowSize(1, GROUP * LIMIT),), 4)
    totals = [lengths[packing.order[number::4]].sum(axis=1) for number in range(4)]
    for smaller, larger in itertools.pairwise(totals):
        assert smaller.max() <= larger.min()


def test_the_share_of_padding_counts_all_positions_of_rows():
    lengths = np.array([[3, 1], [2, 2]], np.int32)
    packing = pack(lengths, (RowSize(1, 5), RowSize(2, 4)), 1)
    assert (packing.num_tokens, packing.num_positions) == (8, 10)
    assert packing.padding_share == pytest.approx(0.2)
    # The long response of the second group does not fit into a row of five.
    packing = pack(np.array([[3, 1], [4, 2]], np.int32), (RowSize(1, 5), RowSize(2, 4)), 2)
    assert [run.size for run in packing.runs] == [(1, 5), (2, 4)]
    assert packing.num_positions == 13
