"""What is computed does not depend on the mesh: every axis alone and mixed, against one device.

Numbers are compared by the norm of what they belong to: the difference of two arrays, in float32,
is at most 1e-5 of the norm of the expected one. Its elements are sums of terms that may cancel, so
that single small ones keep fewer digits, on one device as on eight.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.tpu_program import loop_operations, num_elements
from decoding.decode_loop import Limits, decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import random_transformer
from recallm_jax.partitioning import (
    as_rollout,
    batch_sharding,
    for_rollout,
    make_mesh,
    place_model,
    state_shardings,
)
from rl.batch import Batch, Responses
from rl.learner import (
    LearnerState,
    PolicyLoss,
    Scoring,
    init_state,
    policy_update,
    score_in_parts,
    sft_update,
)

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (simulated) devices")

CONFIG = ModelConfig(
    family="qwen2",
    vocab_rows=64,
    width=32,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    mlp_dim=64,
    max_positions=256,
    rope_theta=1e4,
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=True,
)
NUM_PROMPTS, SIZE, GROUP, LENGTH = 8, 20, 4, 7
# Rows 60 to 63 are unused.
RULES = SpanRules(58, 59, 60, barriers=(0,), max_length=4)
SAMPLING = Sampling(temperature=1.0)
LIMITS = Limits(RULES, LENGTH, stop_tokens=(0,))
LOSS = PolicyLoss(
    clip_low=0.2, clip_high=0.2, kl_coefficient=0.5, importance_cap=2.0, aggregation="token"
)
MIXED = {"fsdp": 2, "sequence": 2, "tensor": 2}


def recording(learning_rate: float) -> optax.GradientTransformation:
    """Return gradient descent whose state is the last gradient."""

    def update(gradient, state, params=None):
        del state, params
        return jax.tree.map(lambda x: -learning_rate * x, gradient), gradient

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


OPTIMIZER = recording(0.1)


@pytest.fixture(scope="module")
def model():
    model = random_transformer(CONFIG, jax.random.key(0))
    # Larger than a start for training: attention and logits are far from flat.
    return jax.tree.map(lambda x: 4.0 * x, model)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    everywhere = np.ones((NUM_PROMPTS, SIZE), bool)
    return Prompts(
        tokens=rng.integers(1, 58, (NUM_PROMPTS, SIZE)).astype(np.int32),
        lengths=rng.integers(SIZE // 2, SIZE + 1, NUM_PROMPTS).astype(np.int32),
        copyable=everywhere,
        span_start=everywhere,
        span_end=everywhere,
    )


def grpo_and_sft(model, prompts, mesh, *, num_parts=1):
    """Sample, score, and update once by each loss; return everything that was computed."""
    policy = model if mesh is None else place_model(model, mesh)

    def place(batch):
        return batch if mesh is None else jax.device_put(batch, batch_sharding(mesh))

    keys = row_keys(0, 0, np.arange(NUM_PROMPTS, dtype=np.uint32), GROUP)
    placed = place(prompts)
    decoded, index = decode(
        for_rollout(policy), placed, place(keys), sampling=SAMPLING, limits=LIMITS
    )
    responses = Responses(placed, index, decoded.responses, decoded.lengths)
    parts = 1 if mesh is None else mesh.shape["sequence"]
    scoring = Scoring(RULES, LENGTH, temperature=1.0, chunk=3, parts=parts)
    scores = score_in_parts(policy, responses, scoring=scoring, num_parts=num_parts)
    rng = np.random.default_rng(1)
    batch = Batch(
        responses=responses,
        advantages=place(rng.normal(size=(NUM_PROMPTS, GROUP, 1)).astype(np.float32)),
        sampler_log_probs=decoded.log_probs,
        old_log_probs=None,
        reference_log_probs=scores - 0.1,
    )
    found = {"decoded": decoded, "scores": scores}

    def state() -> LearnerState:
        start = jax.tree.map(jnp.copy, init_state(policy, OPTIMIZER))
        if mesh is None:
            return start
        return jax.device_put(start, state_shardings(start, CONFIG, mesh))

    options = {"optimizer": OPTIMIZER, "scoring": scoring, "num_parts": num_parts}
    found["grpo"] = policy_update(state(), batch, loss=LOSS, **options)
    found["sft"] = sft_update(state(), responses, **options)
    if mesh is not None:
        after = found["grpo"][0]
        wanted = jax.tree.leaves(state_shardings(after, CONFIG, mesh))
        for x, sharding in zip(jax.tree.leaves(after), wanted, strict=True):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)
    return jax.device_get(found)


@pytest.fixture(scope="module")
def expected(model, prompts):
    return grpo_and_sft(model, prompts, None)


def assert_same(found, expected):
    """Hold every array of two results to each other, as the head of this file says."""
    np.testing.assert_array_equal(found["decoded"].responses, expected["decoded"].responses)
    np.testing.assert_array_equal(found["decoded"].lengths, expected["decoded"].lengths)
    paths = jax.tree.leaves_with_path({name: expected[name] for name in expected})
    for (path, wanted), got in zip(paths, jax.tree.leaves(found), strict=True):
        wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
        distance = np.linalg.norm(got - wanted)
        assert distance <= 1e-5 * np.linalg.norm(wanted), (jax.tree_util.keystr(path), distance)


def test_the_updates_are_worth_comparing(expected):
    lengths = expected["decoded"].lengths
    assert lengths.min() < lengths.max()
    # Spans were opened, by chance, and the responses differ.
    assert (expected["decoded"].responses == RULES.start_token).any()
    for name in ("grpo", "sft"):
        state, metrics = expected[name]
        assert abs(metrics["loss"]) > 1e-2
        for path, gradient in jax.tree.leaves_with_path(state.optimizer_state):
            assert np.linalg.norm(gradient) > 1e-4, path


@pytest.mark.parametrize(
    "sizes",
    [
        MIXED,
        *(
            pytest.param({axis: size}, marks=pytest.mark.slow)
            for axis in ("data", "fsdp", "sequence", "tensor")
            for size in (2, 4, 8)
        ),
        pytest.param({"data": 2, "sequence": 4}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_mesh_changes_samples_scores_losses_or_gradients(model, prompts, expected, sizes):
    assert_same(grpo_and_sft(model, prompts, make_mesh(**sizes)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_parts", [2, 4])
@pytest.mark.parametrize("sizes", [None, MIXED], ids=str)
def test_micro_batches_do_not_either(model, prompts, expected, sizes, num_parts):
    mesh = None if sizes is None else make_mesh(**sizes)
    assert_same(grpo_and_sft(model, prompts, mesh, num_parts=num_parts), expected)


@pytest.mark.parametrize("reshard", [True, False])
def test_a_step_of_decoding_gathers_no_parameter(model, prompts, reshard):
    mesh = make_mesh(**MIXED)
    policy = place_model(model, mesh)
    if reshard:
        policy = for_rollout(policy)
    keys = row_keys(0, 0, np.arange(NUM_PROMPTS, dtype=np.uint32), GROUP)
    placed = jax.device_put(prompts, batch_sharding(mesh))
    compiled = decode.lower(policy, placed, keys, sampling=SAMPLING, limits=LIMITS).compile()
    operations = loop_operations(compiled.as_text())
    gathered = [num_elements(result) for name, result in operations if name == "all-gather"]
    # The smallest matrix of a layer; no activation of a step has so many numbers.
    smallest = CONFIG.width * CONFIG.num_kv_heads * CONFIG.head_dim // mesh.shape["tensor"]
    assert (max(gathered, default=0) < smallest) == reshard


def test_the_policy_that_samples_is_the_policy_that_learns(model):
    mesh = make_mesh(**MIXED)
    policy = place_model(model, mesh)
    for rollout in (for_rollout(policy), jax.jit(as_rollout)(policy)):
        for got, wanted in zip(jax.tree.leaves(rollout), jax.tree.leaves(model), strict=True):
            np.testing.assert_array_equal(got, wanted)
    # A second time there is nothing to be done.
    again = for_rollout(rollout)
    for got, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(rollout), strict=True):
        assert got is wanted
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    policy.config = half
    assert {x.dtype.name for x in jax.tree.leaves(for_rollout(policy))} == {"bfloat16", "float32"}
