"""The sizes of rows of a run: few, close to the responses, and the same when it goes on."""

import json
import math

import numpy as np
import pytest

from rl.packing import alike, pack
from rl.row_sizes import FARTHEST, MOST_SIZES, WORTH_IT, row_sizes

SHAPES = [
    *((64, 8, 224, 1), (512, 8, 256, 1), (1024, 8, 224, 1), (1024, 8, 4096, 1)),
    *((5120, 16, 16000, 4), (5120, 1, 8000, 4), (24, 2, 300, 2), (6, 3, 5, 1), (1, 1, 1, 1)),
]


def log_normal(rng, mean, limit, group, prompts=8):
    drawn = rng.lognormal(np.log(mean) - 0.5, 1.0, (prompts, group))
    return np.clip(np.ceil(drawn), 1, limit).astype(np.int32)


@pytest.mark.parametrize(("limit", "group", "prompt", "parts"), SHAPES)
def test_any_responses_fit_into_a_possible_size(limit, group, prompt, parts):
    sizes = row_sizes(limit=limit, group_size=group, prompt_length=prompt, parts=parts)
    positions = [math.prod(size) for size in sizes.possible]
    assert positions == sorted(set(positions))
    assert sizes.chosen == sizes.possible[-1:]
    # Any group fits into the last, a response a row.
    assert sizes.possible[-1].length == limit and sizes.possible[-1].rows >= group
    if group > 1:
        assert all(size.rows % parts == 0 for size in sizes.possible)
    # One response always fits into a row of its limit, and all lie in as few rows as hold them.
    of_one = parts if group > 1 else 1
    assert all(size.rows == of_one or size.length >= limit for size in sizes.possible[:-1])
    # No two neighbours lie far apart, but for the rounding of lengths.
    work = np.array([prompt, *map(sizes.work, sizes.possible)])
    assert (work[1:] / work[:-1]).max() < 1.02 * (1 + 1 / 16) or group * limit < 100


@pytest.mark.parametrize("last", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("limit", "group", "prompt", "parts"), SHAPES)
def test_a_run_compiles_at_most_eight_sizes_however_lengths_change(
    limit, group, prompt, parts, last
):
    sizes = row_sizes(limit=limit, group_size=group, prompt_length=prompt, parts=parts)
    rng, used = np.random.default_rng(0), set()
    for mean in np.geomspace(limit / 10, last * limit / 10, 20):
        lengths = log_normal(rng, mean, limit, group)
        before, sizes = set(sizes.chosen), sizes.chosen_for(lengths, 4)
        assert before <= set(sizes.chosen) <= set(sizes.possible)
        packing = pack(lengths, sizes.chosen, 4)
        used |= {run.size for run in packing.runs}
        # As far as sizes are possible, a micro-batch computes at most twice what it must.
        work = sum((last - first) * sizes.work(size) for size, first, last in packing.runs)
        needed = 4 * prompt + sum(
            lengths[prompts].sum(axis=1).max() for prompts in alike(lengths, 4)
        )
        assert work < FARTHEST * 1.1 * needed
    assert len(sizes.chosen) <= MOST_SIZES and used <= set(sizes.chosen)


@pytest.mark.parametrize(("limit", "prompt"), [(512, 256), (1024, 1024), (5120, 8192)])
def test_log_normal_lengths_are_padded_little(limit, prompt):
    sizes = row_sizes(limit=limit, group_size=16, prompt_length=prompt)
    rng, computed, needed = np.random.default_rng(0), 0, 0
    for _ in range(8):
        lengths = log_normal(rng, limit / 5, limit, 16, prompts=16)
        sizes = sizes.chosen_for(lengths, 16)
        packing = pack(lengths, sizes.chosen, 16)
        computed += 16 * prompt + packing.num_positions
        needed += 16 * prompt + packing.num_tokens
    assert computed < WORTH_IT * needed


def test_a_high_limit_costs_no_more_than_a_low_one_if_responses_are_the_same():
    shares = []
    for limit in (64, 1024):
        sizes = row_sizes(limit=limit, group_size=8, prompt_length=224)
        rng, computed, needed = np.random.default_rng(0), 0, 0
        for _ in range(40):
            lengths = log_normal(rng, 20, 64, 8)
            sizes = sizes.chosen_for(lengths, 8)
            packing = pack(lengths, sizes.chosen, 8)
            computed += 8 * 224 + packing.num_positions
            needed += 8 * 224 + packing.num_tokens
        shares.append(computed / needed)
    assert shares[1] == pytest.approx(shares[0], rel=0.03)


def test_a_run_that_goes_on_has_the_sizes_that_it_had():
    fresh = row_sizes(limit=512, group_size=8, prompt_length=256)
    rng = np.random.default_rng(0)
    some, more = ([log_normal(rng, mean, 512, 8) for _ in range(4)] for mean in (50, 100))
    first = fresh
    for lengths in some:
        first = first.chosen_for(lengths, 4)
    # As a checkpoint's metadata keeps them.
    again = fresh.resumed(json.loads(json.dumps(first.chosen)))
    assert again == first and len(first.chosen) > 2
    for lengths in more:
        first, again = first.chosen_for(lengths, 4), again.chosen_for(lengths, 4)
        assert again == first
    assert fresh.resumed([]) == fresh
    # On a mesh that splits rows, those that can't be split are not taken over.
    split = row_sizes(limit=512, group_size=8, prompt_length=256, parts=4)
    assert {size.rows % 4 for size in split.resumed(first.chosen).chosen} == {0}
    assert any(size.rows % 4 for size in first.chosen)
