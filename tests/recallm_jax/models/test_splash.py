"""The TPU kernel, interpreted, against attention in plain XLA: values and gradients.

Results are compared by the norm of each array, to 1e-5 in float32, as in test_sharding.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.models.attention import Projected
from recallm_jax.models.group_attention import attend_group, attend_prompt
from recallm_jax.models.splash import BLOCKS, _balanced, _Causal, _Responses
from recallm_jax.policy.partitioning import make_mesh, placement

BLOCK = BLOCKS[-1]
SIZE, LENGTH, GROUP, HEADS, KV_HEADS = 4 * BLOCK, BLOCK, 2, 2, 1


def draw(seed, tokens, head_dim):
    rng = np.random.default_rng(seed)
    heads = (HEADS, KV_HEADS, KV_HEADS)
    drawn = (rng.normal(size=(*tokens, n, head_dim)).astype(np.float32) for n in heads)
    return Projected(*map(jnp.asarray, drawn))


def in_blocks(mask, block):
    rows, columns = (range(0, size, block) for size in mask.shape)
    return np.block([[mask[i : i + block, j : j + block] for j in columns] for i in rows])


def test_masks_follow_their_blocks():
    lower = np.tril(np.ones((12, 12), bool))
    np.testing.assert_array_equal(in_blocks(_Causal(12, (0,)), 4), lower)
    np.testing.assert_array_equal(in_blocks(_Causal(12, (2, 0, 1)), 4), np.roll(lower, 4, axis=0))
    seen = in_blocks(_Responses(prompt=8, group=3, length=4), 4)
    expected = np.zeros((12, 20), bool)
    expected[:, :8] = True
    for row in range(3):
        own = slice(4 * row, 4 * row + 4)
        expected[own, 8:][:, own] = np.tril(np.ones((4, 4), bool))
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_of_a_prompt_are_balanced(parts):
    order = np.array(_balanced(parts)).reshape(parts, 2)
    assert sorted(order.ravel()) == list(range(2 * parts))
    assert set(order.sum(axis=1)) == {2 * parts - 1}
    assert (order % 2 == [0, 1]).all()


@pytest.mark.parametrize(
    ("sizes", "head_dim", "packed"),
    [
        pytest.param({}, 64, False, marks=pytest.mark.slow),
        ({}, 64, True),
        pytest.param({}, 128, True, marks=pytest.mark.slow),
        pytest.param({"data": 2, "sequence": 2, "tensor": 2}, 64, False, marks=pytest.mark.slow),
        pytest.param({"data": 2, "sequence": 2, "tensor": 2}, 64, True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_groups_are_attended_to_as_in_plain_xla(sizes, head_dim, packed):
    """Rows of one response each, or of several of different lengths, with padding at their end."""
    count = sizes.get("data", 1)
    prompt, own = draw(0, (count, SIZE), head_dim), draw(1, (count, GROUP, LENGTH), head_dim)
    lengths = jnp.array([SIZE - 30, SIZE][:count])
    shapes = (count, SIZE), (count, GROUP, LENGTH)
    places = None
    if packed:
        one, other = ([range(100), range(LENGTH - 100)], [range(1), range(70), range(50)])
        rows = [np.concatenate([*map(list, row), [0] * LENGTH])[:LENGTH] for row in (one, other)]
        places = jnp.asarray(np.broadcast_to(np.stack(rows), (count, GROUP, LENGTH)), jnp.int32)
    weights = [draw(seed, shape, head_dim).query for seed, shape in enumerate(shapes, 2)]

    def run(placed):
        def loss(prompt, own):
            mixed = attend_group(prompt, own, lengths, places, placed)
            return sum(jnp.sum(w * x) for w, x in zip(weights, mixed, strict=True)), mixed

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(prompt, own)

    expected = run(None)
    found = run(placement(make_mesh(**sizes), attention="splash"))
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        distance = np.linalg.norm(np.float64(got) - np.float64(wanted))
        assert distance <= 1e-5 * np.linalg.norm(np.float64(wanted))


@pytest.mark.slow
def test_a_prompt_alone_is_attended_to_as_in_plain_xla():
    prompt = draw(0, (2, 8 * BLOCK), 64)
    split = placement(make_mesh(data=2, sequence=4), attention="splash")
    found = jax.jit(lambda prompt: attend_prompt(prompt, split))(prompt)
    np.testing.assert_allclose(found, attend_prompt(prompt, None), rtol=0, atol=1e-5)
