"""Results do not depend on the mesh: every axis alone, and all mixed, against one device.

Numbers are compared by the norm of their array: the difference of two arrays, in float32,
is at most 1e-5 of the norm of the expected one. Its elements are sums of terms that may cancel, so
that single small ones keep fewer digits, on one device as on eight.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.tpu_program import loop_operations, num_elements
from decoding import driver
from decoding.compilations import count_compilations
from decoding.decode_loop import Limits
from decoding.driver import decode, decode_at_once
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import Sampling, row_keys
from decoding.scheduler import Request, decode_all
from decoding.span_copy import SpanRules, index_prompts
from recallm_jax.models import group_attention, kv_cache, transformer
from recallm_jax.models.parameters import layer_specs, top_specs
from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import random_transformer
from recallm_jax.policy.partitioning import (
    batch_sharding,
    make_mesh,
    place_model,
    state_shardings,
)
from recallm_jax.policy.rollout_layout import for_rollout, reshard, rollout_moves
from rl.batch import Batch
from rl.learner import (
    LearnerState,
    PolicyLoss,
    Scoring,
    apply_gradient,
    init_state,
    policy_gradient,
    policy_update,
    score_in_parts,
    score_parts,
    sft_gradient,
    sft_update,
)
from rl.optimizer import train_rows_only
from rl.packing import Packing, one_a_row, pack
from rl.row_sizes import row_sizes

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


@pytest.fixture(autouse=True)
def _programs_of_one_mesh_at_a_time():
    """Drop compiled programs: for eight devices, those of a few modules don't fit in memory."""
    yield
    jax.clear_caches()


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
    # Larger weights than training would start from: attention and logits are far from flat.
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


def placed(model, batch, mesh):
    """Return the policy and a batch on a mesh; None leaves them on one device."""
    if mesh is None:
        return model, batch
    return place_model(model, mesh), jax.device_put(batch, batch_sharding(mesh))


def start_state(policy, mesh) -> LearnerState:
    state = jax.tree.map(jnp.copy, init_state(policy, OPTIMIZER))
    if mesh is None:
        return state
    return jax.device_put(state, state_shardings(state, CONFIG, mesh))


def scoring_on(mesh) -> Scoring:
    parts = 1 if mesh is None else mesh.shape["sequence"]
    return Scoring(RULES, LENGTH, temperature=1.0, chunk=3, parts=parts)


def packing_on(mesh, rollout, num_parts) -> Packing:
    """Return packed rows for a mesh; without one, each response in a row of its own."""
    if mesh is None:
        return one_a_row(*rollout.tokens.shape, num_parts=num_parts)
    group_size = rollout.tokens.shape[1]
    sizes = row_sizes(
        limit=LENGTH, group_size=group_size, prompt_length=SIZE, parts=mesh.shape["sequence"]
    )
    # At most two sizes of rows, so that few programs are compiled.
    lengths = np.asarray(rollout.lengths)
    two = sizes.chosen_for(lengths, num_parts).chosen[-2:]
    return pack(lengths, two, num_parts)


def arrays(found, mesh):
    """Return every array of a result by its name; check that new states lie like the old ones."""
    after = [x for x in jax.tree.leaves(found, is_leaf=is_state) if is_state(x)]
    for state in after if mesh is not None else ():
        wanted = jax.tree.leaves(state_shardings(state, CONFIG, mesh))
        for x, sharding in zip(jax.tree.leaves(state), wanted, strict=True):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)
    paths = jax.tree.leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in paths}


def is_state(x):
    return isinstance(x, LearnerState)


def grpo(model, prompts, mesh, *, num_parts=1):
    """Sample groups, score them and update once; return the results, and the decoding program."""
    keys = row_keys(0, 0, np.arange(NUM_PROMPTS, dtype=np.uint32), GROUP)
    advantages = np.random.default_rng(1).normal(size=(NUM_PROMPTS, GROUP, 1)).astype(np.float32)
    policy, (prompts, keys, advantages) = placed(model, (prompts, keys, advantages), mesh)
    leaves, tree = jax.tree.flatten((for_rollout(policy), prompts, keys))

    def decode_leaves(*leaves):
        return decode_at_once(*jax.tree.unflatten(tree, leaves), SAMPLING, LIMITS)

    # Compiled once, both to run it and to read its text.
    decoding = jax.jit(decode_leaves).lower(*leaves).compile()
    rollout = dataclasses.replace(decoding(*leaves), prompts=prompts)
    scoring = scoring_on(mesh)
    packing = packing_on(mesh, rollout, num_parts)
    scores = score_in_parts(policy, rollout, scoring=scoring, packing=packing)
    batch = Batch(
        rollout,
        advantages=advantages,
        reference_log_probs=scores - 0.1,
    )
    state, metrics = policy_update(
        start_state(policy, mesh),
        batch,
        optimizer=OPTIMIZER,
        scoring=scoring,
        loss=LOSS,
        packing=packing,
    )
    # They differ by rounding only.
    assert metrics.pop("sampler_log_prob_error") < 1e-5
    found = {"rollout": rollout, "scores": scores, "state": state, "metrics": metrics}
    return arrays(found, mesh), decoding.as_text()


def sft(model, prompts, mesh, *, num_parts=1):
    """Learn from a demonstration of each prompt; return the results."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 58, (NUM_PROMPTS, 1, LENGTH)).astype(np.int32)
    lengths = rng.integers(1, LENGTH + 1, (NUM_PROMPTS, 1)).astype(np.int32)
    policy, (prompts, tokens, lengths) = placed(model, (prompts, tokens, lengths), mesh)
    index = jax.jit(index_prompts, static_argnums=(1, 2))(prompts, RULES, CONFIG.vocab_rows)
    rollout = Rollout(prompts, index, tokens, lengths)
    state, metrics = sft_update(
        start_state(policy, mesh),
        rollout,
        optimizer=OPTIMIZER,
        scoring=scoring_on(mesh),
        packing=packing_on(mesh, rollout, num_parts),
    )
    return arrays({"state": state, "metrics": metrics}, mesh)


@pytest.fixture(scope="module")
def expected(model, prompts):
    return grpo(model, prompts, None)[0]


@pytest.fixture(scope="module")
def expected_sft(model, prompts):
    return sft(model, prompts, None)


@pytest.fixture(scope="module")
def mixed(model, prompts):
    return grpo(model, prompts, make_mesh(**MIXED))


def decoded(model, prompts, mesh):
    """Decode responses of different lengths to prompts of different lengths."""
    prompts = dataclasses.replace(
        prompts, lengths=np.array([3, 20, 11, 4, 17, 8, 20, 6], np.int32)[:NUM_PROMPTS]
    )
    keys = row_keys(0, 0, np.arange(NUM_PROMPTS, dtype=np.uint32), GROUP)
    # Rows stop soon.
    limits = dataclasses.replace(LIMITS, processor=lambda logits: logits.at[..., 0].add(3.0))
    policy, (prompts, keys) = placed(model, (prompts, keys), mesh)
    rollout = decode(for_rollout(policy), prompts, keys, sampling=SAMPLING, limits=limits)
    return arrays({"rollout": rollout}, mesh)


@pytest.mark.parametrize(
    "axes",
    [
        MIXED,
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"sequence": 4, "tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_rows_and_prompts_that_cost_their_own_lengths_are_decoded_alike(
    axes, model, prompts, monkeypatch
):
    for module in (transformer, group_attention):
        monkeypatch.setattr(module, "PROMPT_BLOCK", 2)
    monkeypatch.setattr(kv_cache, "BLOCK", 2)
    monkeypatch.setattr(driver, "STRIDE", 2)
    expected = decoded(model, prompts, None)
    assert len(np.unique(expected["['rollout'].lengths"])) > 4
    assert_same(decoded(model, prompts, make_mesh(**axes)), expected)


def assert_same(found, expected):
    """Compare every array of two results, as the head of this file says."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        if np.issubdtype(wanted.dtype, np.integer):
            np.testing.assert_array_equal(found[name], wanted, err_msg=name)
        distance = np.linalg.norm(np.float64(found[name]) - np.float64(wanted))
        assert distance <= 1e-5 * np.linalg.norm(np.float64(wanted)), (name, distance)


def assert_every_gradient_counts(arrays):
    gradients = [name for name in arrays if "optimizer_state" in name]
    assert len(gradients) == len({**top_specs(CONFIG), **layer_specs(CONFIG)})
    for name in gradients:
        assert np.linalg.norm(arrays[name]) > 1e-4, name
    assert abs(arrays["['metrics']['loss']"]) > 1e-2


def test_a_mixed_mesh_changes_no_sample_score_loss_or_gradient(mixed, expected):
    assert_same(mixed[0], expected)
    assert_every_gradient_counts(expected)
    lengths = expected["['rollout'].lengths"]
    assert lengths.min() < lengths.max()
    # Some spans were opened, by chance.
    assert (expected["['rollout'].tokens"] == RULES.start_token).any()


def largest_gather(hlo: str) -> int:
    """Return the size of the largest array that a step of the decode loop gathers."""
    operations = loop_operations(hlo)
    return max(
        (num_elements(result) for name, result in operations if name == "all-gather"), default=0
    )


# A device's part of the matrix of a layer's queries; no activation that a step gathers
# has so many numbers.
QUERY_MATRIX = CONFIG.width * CONFIG.num_heads * CONFIG.head_dim // MIXED["tensor"]


def test_a_step_of_decoding_gathers_no_parameter(mixed):
    assert largest_gather(mixed[1]) < QUERY_MATRIX


def test_on_the_way_to_decoding_no_device_gathers_more_than_it_keeps():
    wide = dataclasses.replace(CONFIG, mlp_dim=1024)
    policy = place_model(random_transformer(wide, jax.random.key(0)), make_mesh(fsdp=2, sequence=4))
    moves = rollout_moves(policy)
    text = reshard.lower(moves.arrays, layouts=moves.layouts).compile().as_text()
    gathered = re.findall(r"= (\w+\[[\d,]+\])\S* all-gather\(", text)
    kept = [x.addressable_shards[0].data.size for x in jax.tree.leaves(for_rollout(policy))]
    assert gathered and max(map(num_elements, gathered)) == max(kept)


@pytest.mark.slow
def test_it_would_if_the_policy_lay_as_in_training(model, prompts, monkeypatch):
    monkeypatch.setitem(globals(), "for_rollout", lambda policy: policy)
    assert largest_gather(grpo(model, prompts, make_mesh(**MIXED))[1]) >= QUERY_MATRIX


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        *({axis: n} for axis in ("data", "fsdp", "sequence", "tensor") for n in (2, 4, 8)),
        {"data": 2, "sequence": 4},
        {"data": 2, "fsdp": 2, "tensor": 2},
    ],
    ids=str,
)
def test_no_mesh_changes_samples_scores_losses_or_gradients(model, prompts, expected, sizes):
    assert_same(grpo(model, prompts, make_mesh(**sizes))[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [{axis: 8} for axis in ("data", "fsdp", "sequence", "tensor")] + [MIXED],
    ids=str,
)
def test_demonstrations_teach_the_same_on_every_mesh(model, prompts, expected_sft, sizes):
    assert_every_gradient_counts(expected_sft)
    assert_same(sft(model, prompts, make_mesh(**sizes)), expected_sft)


@pytest.mark.slow
@pytest.mark.parametrize("num_parts", [2, 4])
@pytest.mark.parametrize("sizes", [None, MIXED], ids=str)
def test_micro_batches_change_nothing_either(
    model, prompts, expected, expected_sft, sizes, num_parts
):
    mesh = None if sizes is None else make_mesh(**sizes)
    assert_same(grpo(model, prompts, mesh, num_parts=num_parts)[0], expected)
    assert_same(sft(model, prompts, mesh, num_parts=num_parts), expected_sft)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, MIXED], ids=str)
@pytest.mark.parametrize("remat", ["none", "attention", "dots"])
def test_rematerialisation_changes_nothing(model, prompts, expected, sizes, remat):
    assert CONFIG.remat == "full"
    other = jax.tree.map(jnp.copy, model)
    other.config = dataclasses.replace(CONFIG, remat=remat)
    mesh = None if sizes is None else make_mesh(**sizes)
    assert_same(grpo(other, prompts, mesh)[0], expected)


@pytest.mark.slow
def test_prompts_that_enter_one_by_one_get_the_same_answers(model, prompts, expected):
    policy = for_rollout(place_model(model, make_mesh(sequence=2, tensor=2)))
    keys = row_keys(0, 0, np.arange(NUM_PROMPTS, dtype=np.uint32), GROUP)
    requests = [
        Request(*(x[b, :length] for x in (prompts.tokens, *flags_of(prompts))), keys[b])
        for b, length in enumerate(prompts.lengths)
    ]
    finished = decode_all(
        policy, requests[:3], buckets=(SIZE,), num_slots=2, sampling=SAMPLING, limits=LIMITS
    )
    for one in finished:
        wanted = expected["['rollout'].tokens"][one.number]
        np.testing.assert_array_equal(one.rollout.tokens[0], wanted)


def flags_of(prompts):
    return prompts.copyable, prompts.span_start, prompts.span_end


def test_the_policy_that_samples_is_the_policy_that_learns(model):
    mesh = make_mesh(**MIXED)
    policy = place_model(model, mesh)
    rollout = for_rollout(policy)
    for got, wanted in zip(jax.tree.leaves(rollout), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(got, wanted)
    # The second time there is nothing to do.
    again = for_rollout(rollout)
    for got, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(rollout), strict=True):
        assert got is wanted
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    policy = policy.with_config(half)
    assert {x.dtype.name for x in jax.tree.leaves(for_rollout(policy))} == {"bfloat16", "float32"}


@pytest.mark.parametrize("axes", [{}, MIXED], ids=str)
def test_no_step_but_the_first_compiles(axes, model, prompts):
    mesh = make_mesh(**axes)
    policy, (prompts,) = placed(model, (prompts,), mesh)
    index = jax.jit(index_prompts, static_argnums=(1, 2))(prompts, RULES, CONFIG.vocab_rows)
    shape = (NUM_PROMPTS, 1, LENGTH)
    tokens, lengths, found = jax.device_put(
        (np.ones(shape, np.int32), np.full(shape[:2], LENGTH), np.zeros(shape, np.float32)),
        batch_sharding(mesh),
    )
    rollout = Rollout(prompts, index, tokens, lengths, found)
    scoring, compiled = scoring_on(mesh), []
    as_given = one_a_row(NUM_PROMPTS, 1, LENGTH, num_parts=2)
    # The moments of a few rows lie otherwise than their matrix.
    rows_only = train_rows_only(optax.adam(0.1), rows=(58, 59, 60, 61))
    rows_state = init_state(jax.tree.map(jnp.copy, policy), rows_only)
    rows_state = jax.device_put(rows_state, state_shardings(rows_state, CONFIG, mesh))
    state = start_state(policy, mesh)
    programs = (score_parts, policy_gradient, sft_gradient, apply_gradient)
    with count_compilations(*programs) as count:
        for order in (as_given.order, as_given.order[::-1], as_given.order):
            packing = dataclasses.replace(as_given, order=order)
            scores = score_in_parts(state.policy, rollout, scoring=scoring, packing=packing)
            batch = Batch(rollout, advantages=found[..., :1], reference_log_probs=scores)
            options = {"scoring": scoring, "packing": packing}
            state, _ = policy_update(state, batch, loss=LOSS, optimizer=OPTIMIZER, **options)
            rows_state, _ = sft_update(
                rows_state, rollout, optimizer=rows_only, matrices_only=True, **options
            )
            compiled.append(count())
    assert compiled == [5, 5, 5]
