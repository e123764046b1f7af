"""Token choice against frequencies and against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.errors import DecodingInputError
from decoding.sampling import (
    BLOCK,
    RowSampling,
    Sampling,
    log_prob_of,
    penalise_repetition,
    row_keys,
    sample,
    stack_sampling,
)
from decoding.token_bits import insert

DRAWS = 20_000


def draw(logits, sampling):
    keys = jax.random.split(jax.random.key(0), (1, DRAWS))
    many = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (1, DRAWS, len(logits)))
    tokens, _ = jax.jit(sample)(many, keys, sampling)
    return np.bincount(np.asarray(tokens[0]), minlength=len(logits))


def expected_distribution(logits, temperature, top_k, top_p):
    """Temperature, then top-k, then top-p, by sorting."""
    scaled = np.asarray(logits, np.float64) / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    if top_k:
        probs[order[top_k:]] = 0
        probs /= probs.sum()
    before = np.cumsum(probs[order]) - probs[order]
    probs[order[before >= top_p]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (4, 0.8)])
def test_frequencies_follow_the_filtered_softmax(temperature, top_k, top_p):
    logits = [1.0, 0.3, -0.5, 2.0, -jnp.inf, 0.9, -2.0]
    counts = draw(logits, Sampling(temperature, top_k, top_p))
    expected = expected_distribution(logits, temperature, top_k, top_p)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = ((counts - DRAWS * expected)[kept] ** 2 / (DRAWS * expected[kept])).sum()
    # The 99.99th percentile of chi-square with 6 degrees of freedom, the most there can be.
    assert chi_square < 27.9


@pytest.mark.parametrize("count", [1, 2])
def test_tokens_with_exactly_the_probability_of_top_p_are_enough(count):
    logits = jnp.broadcast_to(jnp.log(jnp.array([8.0, 4.0, 2.0, 1.0])), (1, 500, 4))
    top_p = jax.nn.softmax(logits, axis=-1)[..., :count].sum(axis=-1)
    keys = jax.random.split(jax.random.key(0), (1, 500))
    # Not compiled as one program, so that the sums are the same to the last bit.
    tokens, _ = sample(logits, keys, RowSampling(jnp.ones((1, 500)), top_p=top_p))
    assert np.unique(tokens).tolist() == list(range(count))


def test_draws_from_a_large_vocabulary_follow_its_softmax():
    # Several blocks, the last one partial; nine tokens of ten are forbidden.
    rng = np.random.default_rng(0)
    logits = np.where(rng.random(3 * BLOCK + 17) < 0.1, rng.normal(size=3 * BLOCK + 17), -np.inf)
    counts = draw(logits, Sampling(1.0))
    expected = expected_distribution(logits, 1.0, 0, 1.0)
    kept = expected > 0
    assert (counts[~kept] == 0).all()
    chi_square = ((counts - DRAWS * expected)[kept] ** 2 / (DRAWS * expected[kept])).sum()
    # Mean and standard deviation of chi-square with n degrees of freedom: n, sqrt(2 n).
    assert chi_square < kept.sum() + 4 * np.sqrt(2 * kept.sum())


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_the_only_possible_token_is_drawn_at_any_place(place):
    logits = np.full(3 * BLOCK + 1, -np.inf)
    logits[place] = -1e30
    assert draw(logits, Sampling(1.0))[place] == DRAWS


def test_log_probs_are_those_before_top_k_and_top_p():
    logits = jnp.asarray([[[2.0, 1.0, 0.0]]])
    keys = jax.random.split(jax.random.key(1), (1, 1))
    token, log_prob = sample(logits, keys, Sampling(0.5, top_k=1))
    assert int(token[0, 0]) == 0
    # softmax of (4, 2, 0)
    np.testing.assert_allclose(log_prob[0, 0], -np.log(1 + np.exp(-2) + np.exp(-4)), rtol=1e-5)


def test_a_single_allowed_token_has_log_probability_zero():
    logits = jnp.asarray([[[-jnp.inf, -1e30, -jnp.inf]]])
    keys = jax.random.split(jax.random.key(1), (1, 1))
    for temperature in (0.0, 0.3, 1.0):
        token, log_prob = sample(logits, keys, Sampling(temperature, top_p=0.9))
        assert int(token[0, 0]) == 1 and float(log_prob[0, 0]) == 0.0


@pytest.mark.parametrize("offset", [-300.0, 0.0, 100.0, 3e4])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_log_probs_are_as_exact_far_from_zero(offset, temperature):
    logits = (np.random.default_rng(0).normal(0, 3, (4, 8, 200)) + offset).astype(np.float32)
    token = np.arange(32, dtype=np.int32).reshape(4, 8)
    got = log_prob_of(jnp.asarray(logits), jnp.asarray(token), Sampling(temperature))
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    expected = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    expected = np.take_along_axis(expected, token[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(got, expected, atol=5e-6)


@pytest.mark.parametrize("value", [-1e30, 1e30, 1e6])
def test_equal_logits_are_equally_likely_whatever_their_size(value):
    got = log_prob_of(jnp.full((1, 1, 10), value), jnp.zeros((1, 1), jnp.int32), Sampling())
    np.testing.assert_allclose(got, -np.log(10), rtol=1e-6)


def test_an_id_without_a_row_is_impossible():
    tokens = jnp.asarray([[3, -4, 2]])
    got = log_prob_of(jnp.zeros((1, 3, 3)), tokens, Sampling())
    np.testing.assert_allclose(got, [[-np.inf, -np.inf, -np.log(3)]], rtol=1e-6)


def test_example_ids_that_keys_cannot_tell_apart_are_refused():
    with pytest.raises(DecodingInputError, match="example id 4294967297 must lie between 0 and"):
        row_keys(0, 0, np.array([1, 2**32 + 1]), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temperature": -1.0},
            "temperature -1.0 must be 0 .greedy., or finite and at least 0.001",
        ),
        ({"temperature": 1e-40}, "temperature 1e-40 must be 0"),
        ({"temperature": float("nan")}, "temperature nan must be 0"),
        ({"temperature": float("inf")}, "temperature inf must be 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty nan must be finite and above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty inf must be finite and above 0"),
        ({"top_p": 0.0}, "top_p 0.0 must lie in"),
        ({"top_p": float("nan")}, "top_p nan must lie in"),
        ({"min_p": float("nan")}, "min_p nan must lie in"),
        ({"top_k": -2}, "top_k -2 is negative"),
        ({"min_p": 1.5}, r"min_p 1.5 must lie in \[0, 1\]"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 must be finite and above 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(DecodingInputError, match=message):
        Sampling(**options)


def test_min_p_keeps_tokens_that_are_likely_enough_beside_the_likeliest():
    probs = np.array([0.5, 0.26, 0.24, 0.0])
    with np.errstate(divide="ignore"):
        counts = draw(np.log(probs), Sampling(1.0, min_p=0.51))
    # 0.26 >= 0.51 * 0.5 > 0.24: the first two stay, in the proportion 0.5 to 0.26.
    expected = DRAWS * np.array([0.5, 0.26]) / 0.76
    assert counts[2:].sum() == 0
    assert ((counts[:2] - expected) ** 2 / expected).sum() < 15.1


def test_each_row_is_drawn_by_its_own_settings():
    settings = [
        Sampling(0.0),
        Sampling(0.6),
        Sampling(1.0, top_k=2),
        Sampling(1.0, top_p=0.7),
        Sampling(1.0, min_p=0.2),
    ]
    logits = jnp.asarray([1.0, 0.3, -0.5, 2.0, -jnp.inf, 0.9, -2.0])
    rows = stack_sampling([[row] * DRAWS for row in settings])
    keys = jax.random.split(jax.random.key(3), (len(settings), DRAWS))
    shape = (len(settings), DRAWS, len(logits))
    tokens, log_probs = jax.jit(sample)(jnp.broadcast_to(logits, shape), keys, rows)
    for b, row in enumerate(settings):
        alone = jax.jit(sample)(jnp.broadcast_to(logits, (1, *shape[1:])), keys[b : b + 1], row)
        np.testing.assert_array_equal(tokens[b], alone[0][0])
        np.testing.assert_allclose(log_probs[b], alone[1][0], rtol=1e-6)
    assert (np.asarray(tokens[0]) == 3).all()
    assert set(np.unique(tokens[2])) == {0, 3}


@pytest.mark.parametrize(
    "rows",
    [
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1e-40},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "min_p": 2.0},
        {"temperature": -1.0},
    ],
)
def test_the_likeliest_token_stays_under_any_filter(rows):
    logits = jnp.asarray([[[1.0, 3.0, -jnp.inf, 2.0, 0.0]]])
    fields = {
        name: np.full((1, 1), value, np.int32 if name == "top_k" else np.float32)
        for name, value in rows.items()
    }
    keys = jax.random.split(jax.random.key(0), (1, 1))
    token, log_prob = sample(logits, keys, RowSampling(**fields))
    assert int(token[0, 0]) == 1 and np.isfinite(log_prob).all()


def test_repetition_lowers_the_logits_of_seen_tokens_only():
    logits = jnp.asarray([[[2.0, -2.0, 2.0, -2.0] + [1.0] * 40]])
    seen = insert(
        insert(jnp.zeros((1, 1, 2), jnp.uint32), jnp.full((1, 1), 0)), jnp.full((1, 1), 1)
    )
    got = penalise_repetition(logits, seen, Sampling(repetition_penalty=2.0))
    assert np.asarray(got)[0, 0, :5].tolist() == [1.0, -4.0, 2.0, -2.0, 1.0]
    assert penalise_repetition(logits, seen, Sampling()) is logits
