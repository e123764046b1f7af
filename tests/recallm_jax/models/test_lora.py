"""Adapters: a frozen model and a few trained parameters compute what the merged weights would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.models.parameters import adapter_specs
from recallm_jax.models.presets import MATRICES, Lora
from recallm_jax.policy.partitioning import make_mesh, place_model
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.weights.lora import merged, with_lora
from recallm_jax.weights.tensors import layer_arrays, top_arrays
from tests.oracles.tiny_models import tiny_model

LORA = Lora(rank=3, alpha=6.0, matrices=MATRICES, rows=(5, 2, 37, 11))
PROMPTS, LENGTHS, SIZE = 2, (9, 4), 9


def adapted(name, lora=LORA):
    """A model whose adapters and rows are far from 0."""
    model = with_lora(tiny_model(name), lora, seed=1)
    keys = iter(jax.random.split(jax.random.key(2), 99))
    changed = {
        name: value + 0.1 * jax.random.normal(next(keys), value.shape)
        for name, value in model.trained().items()
    }
    return model.with_trained(changed)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 40, (PROMPTS, SIZE + 3))
    # Every trained row is read.
    tokens[0, :4] = LORA.rows
    responses = rng.integers(0, 40, (PROMPTS, 2, 4))
    responses[1, 0] = LORA.rows
    return {
        "prompts": jnp.asarray(tokens[:, :SIZE], jnp.int32),
        "lengths": jnp.array(LENGTHS, jnp.int32),
        "responses": jnp.asarray(responses, jnp.int32),
    }


@jax.jit
def scored(model, batch):
    """The log-probabilities of all tokens, and the logits of each response's own tokens."""
    hidden = model.score(**batch)
    own = model.unembed_at(hidden, batch["responses"][..., None])
    return jax.nn.log_softmax(model.unembed(hidden)), own


@jax.jit
def decoded(model, batch):
    """The logits after the prompts and after two more tokens."""
    hidden, prompt_cache = model.prefill(batch["prompts"], batch["lengths"])
    parts = model.parts(PROMPTS)
    count = PROMPTS // parts
    cache = model.start(PROMPTS, 1, size=SIZE, capacity=64)
    numbers = jnp.tile(jnp.arange(count), (parts, 1))
    cache = model.enter(cache, numbers, prompt_cache, jnp.int32(0))
    found = [model.unembed(hidden)]
    for step in range(2):
        tokens = batch["responses"][:, 0, step].reshape(parts, count)
        logits, cache = model.decode(tokens, jnp.int32(step), cache)
        found.append(logits.reshape(PROMPTS, -1))
    return found


@jax.jit
def gathered(model, batch):
    """What `scored` returns, by copies of the output matrix."""
    hidden, tokens = model.score(**batch), batch["responses"]
    flat = hidden.reshape(PROMPTS, -1, hidden.shape[-1])
    copies = model.gathered(PROMPTS, 2)
    own = copies.unembed_at(flat, tokens.reshape(PROMPTS, -1, 1))
    logits = copies.unembed(flat).reshape(*tokens.shape, -1)
    return jax.nn.log_softmax(logits), own.reshape(*tokens.shape, 1)


def assert_close(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * max(1.0, abs(b).max()))


# Untied with biases; tied; with norms of queries and keys.
@pytest.mark.parametrize("name", ["qwen2_plain", "smollm2_plain", "qwen3_plain"])
def test_adapters_compute_what_the_merged_weights_compute(name, batch):
    model = adapted(name)
    alone = merged(model)
    assert alone.config.lora is None
    difference = abs(scored(model, batch)[0] - scored(tiny_model(name), batch)[0]).max()
    assert difference > 0.1
    assert_close(scored(model, batch), scored(alone, batch))
    assert_close(decoded(model, batch), decoded(alone, batch))


def test_new_adapters_change_nothing(batch):
    plain = tiny_model("qwen2_plain")
    for got, expected in zip(
        scored(with_lora(plain, LORA), batch), scored(plain, batch), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_weights_are_rounded_once_after_adapters_were_added():
    """Rounded to bfloat16 first, most of what adapters learned would be lost."""
    model = tiny_model("smollm2_plain")
    frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    small = with_lora(frozen, LORA, seed=1)
    changed = {name: value + 1e-3 for name, value in small.trained().items()}
    small = small.with_trained(changed)
    whole, exact = (top_arrays(x) | layer_arrays(x) for x in (merged(small, "float32"), small))
    for name in MATRICES:
        a, b = (np.asarray(exact[f"{name}_{part}"], np.float64) for part in "ab")
        wanted = np.asarray(exact[name], np.float64) + 2.0 * a @ b
        np.testing.assert_allclose(whole[name], wanted, rtol=0, atol=1e-6, err_msg=name)
    rows = np.array(LORA.rows)
    wanted = np.asarray(exact["embedding"], np.float32)[rows] + 1e-3
    np.testing.assert_allclose(whole["embedding"][rows], wanted, rtol=0, atol=1e-6)
    assert {str(x.dtype) for x in whole.values()} == {"float32"}
    halved = top_arrays(merged(small)) | layer_arrays(merged(small))
    assert {str(x.dtype) for x in halved.values()} == {"bfloat16"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_without_adapters_is_merged_to_itself(dtype):
    model = tiny_model("smollm2_plain")
    for got, x in zip(jax.tree.leaves(merged(model, dtype)), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(got, x.astype(dtype))


@pytest.mark.parametrize("name", ["qwen2_plain", "smollm2_plain"])
def test_gradients_of_adapters_follow_from_those_of_the_merged_weights(name, batch):
    """For W' = W + s A B: dA = s dW' B^T and dB = s A^T dW'; a row's is the matrix's own."""
    model = adapted(name)

    def loss(model):
        log_probs, own = scored(model, batch)
        return log_probs[..., 7].sum() + (own**2).mean()

    got = jax.grad(lambda trained: loss(model.with_trained(trained)))(model.trained())
    whole = jax.grad(loss)(merged(model))
    layers, trained = layer_arrays(whole), model.trained()
    expected = {}
    for matrix in MATRICES:
        a, b = trained[f"{matrix}_a"], trained[f"{matrix}_b"]
        expected[f"{matrix}_a"] = LORA.scale * jnp.einsum("lio,lro->lir", layers[matrix], b)
        expected[f"{matrix}_b"] = LORA.scale * jnp.einsum("lir,lio->lro", a, layers[matrix])
    rows = jnp.array(LORA.rows)
    expected["embedding_rows"] = top_arrays(whole)["embedding"][rows]
    if "output_rows" in trained:
        expected["output_rows"] = top_arrays(whole)["output"][rows]
    assert got.keys() == expected.keys() == adapter_specs(model.config).keys()
    for parameter, value in expected.items():
        assert abs(value).max() > 1e-3, parameter
        np.testing.assert_allclose(
            got[parameter], value, rtol=0, atol=1e-4 * abs(value).max(), err_msg=parameter
        )


def test_only_the_chosen_matrices_have_adapters():
    lora = Lora(rank=2, alpha=2.0, matrices=("query", "down"), rows=(1,))
    names = set(adapted("smollm2_plain", lora).trained())
    assert names == {"query_a", "query_b", "down_a", "down_b", "embedding_rows"}


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("name", ["qwen2_plain", "smollm2_plain"])
def test_adapters_on_a_mesh_compute_what_they_compute_on_one_device(name, batch):
    model = adapted(name)
    placed = place_model(model, make_mesh(fsdp=2, tensor=2))
    assert_close(scored(placed, batch), scored(model, batch))
    assert_close(decoded(for_rollout(placed), batch), decoded(model, batch))
    assert_close(gathered(placed, batch), scored(model, batch))


def test_decoding_shares_the_arrays_that_already_lie_as_it_needs_them():
    """One frozen bfloat16 model serves as policy and sampler; float32 adapters are cast."""
    model = tiny_model("smollm2_plain", dtype="bfloat16", param_dtype="bfloat16")
    model = place_model(with_lora(model, LORA), make_mesh())
    rollout = for_rollout(model)
    frozen = set(layer_arrays(model)) - set(model.trained())
    for name in frozen:
        before, after = (getattr(m.layers, name)[...] for m in (model, rollout))
        assert after.unsafe_buffer_pointer() == before.unsafe_buffer_pointer(), name
    assert {x.dtype.name for x in rollout.trained().values()} == {"bfloat16"}
