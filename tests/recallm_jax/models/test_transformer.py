"""Groups share their prompt without changing what any row computes."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.packing import RowSize, lay_out
from recallm_jax.models import group_attention, kv_cache, transformer
from recallm_jax.models.parameters import layer_specs, top_specs
from recallm_jax.models.presets import PRESETS
from recallm_jax.models.transformer import Transformer, random_transformer
from recallm_jax.weights.tensors import layer_arrays, top_arrays
from rl.packing import pack
from tests.oracles.tiny_models import tiny_model

NUM_PROMPTS, GROUP, SIZE, LENGTH = 2, 3, 11, 7
# The second prompt is shorter, so that its padding could leak.
LENGTHS = (SIZE, 4)


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2_yarn")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "prompts": jnp.asarray(rng.integers(0, 40, (NUM_PROMPTS, SIZE)), jnp.int32),
        "lengths": jnp.array(LENGTHS, jnp.int32),
        "responses": jnp.asarray(rng.integers(0, 40, (NUM_PROMPTS, GROUP, LENGTH)), jnp.int32),
    }


def full_sequence_logits(model, prompt, response):
    """One row as one causal sequence without padding: logits that predict its response."""
    tokens = jnp.concatenate([prompt, response])
    # All tokens are the response to the first one, which alone is the prompt.
    hidden = model.score(tokens[None, :1], jnp.array([1]), tokens[None, None, 1:])
    return model.unembed(hidden)[0, 0, prompt.size - 1 :]


@jax.jit
def score_logits(model, batch):
    return model.unembed(model.score(**batch))


def with_params(model, params):
    top = {name: params[name] for name in top_specs(model.config)}
    return Transformer(
        model.config, top, {name: params[name] for name in layer_specs(model.config)}
    )


def test_group_logits_and_gradients_equal_those_of_separate_sequences(model, batch):
    """Of responses in rows of their own, and of shorter ones that lie end to end in two rows."""
    params = {**top_arrays(model), **layer_arrays(model)}
    weights = jax.random.normal(jax.random.key(1), (NUM_PROMPTS, GROUP, LENGTH, 40))
    of_responses = np.array([[LENGTH, 2, 5], [3, 1, LENGTH]])
    real = np.arange(LENGTH) < of_responses[..., None]
    weights = weights * real[..., None]
    # The first row has room after its response; the others lie beside each other in any order.
    (size,) = sizes = (RowSize(2, LENGTH + 1),)
    packing = pack(of_responses, sizes, 1)
    assert (packing.order == [1, 0]).all()
    layout = lay_out(packing.slots, jnp.asarray(of_responses), size, LENGTH)

    def grouped(params):
        model_of = with_params(model, params)
        return model_of.unembed(model_of.score(**batch))

    def packed(params):
        model_of = with_params(model, params)
        rows = layout.in_rows(batch["responses"])
        hidden = model_of.score(batch["prompts"], batch["lengths"], rows, layout.place)
        return jax.vmap(layout.of_responses, in_axes=-1, out_axes=-1)(model_of.unembed(hidden))

    def separate(params):
        model_of = with_params(model, params)
        rows = jax.vmap(full_sequence_logits, in_axes=(None, None, 0))
        return jnp.stack(
            [
                rows(model_of, batch["prompts"][b, :length], batch["responses"][b])
                for b, length in enumerate(LENGTHS)
            ]
        )

    def loss(logits):
        return jnp.sum(weights * jax.nn.log_softmax(logits))

    @jax.jit
    def all_three(params):
        return tuple(
            (run(params), jax.grad(lambda p, run=run: loss(run(p)))(params))
            for run in (separate, grouped, packed)
        )

    (expected_logits, expected_gradients), (in_rows, _), (end_to_end, _) = found = all_three(params)
    np.testing.assert_allclose(in_rows, expected_logits, rtol=0, atol=5e-5)
    np.testing.assert_allclose(end_to_end[real], expected_logits[real], rtol=0, atol=5e-5)
    for name, expected in expected_gradients.items():
        scale = float(jnp.abs(expected).max())
        assert scale > 0, name
        for _, gradients in found[1:]:
            np.testing.assert_allclose(
                gradients[name], expected, rtol=0, atol=1e-5 * max(scale, 1.0), err_msg=name
            )


def unstacked(model, unstack):
    config = dataclasses.replace(model.config, unstack_decode=unstack)
    return Transformer(config, top_arrays(model), layer_arrays(model))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few tokens, so that prompts and responses take several."""
    monkeypatch.setattr(kv_cache, "BLOCK", 2)
    for module in (transformer, group_attention):
        monkeypatch.setattr(module, "PROMPT_BLOCK", 2)
    monkeypatch.setattr(transformer, "AT_ONCE", 3)


def started(model, batch, order, capacity):
    """Return the hidden states of the prompts, which enter one by one, and a cache with them."""
    sizes = model.prompt_sizes(SIZE)
    padded = [next(size for size in sizes if size >= LENGTHS[number]) for number in order]
    cache = model.start(NUM_PROMPTS, GROUP, size=SIZE, capacity=capacity)
    hidden, place = {}, 0
    for number, size in zip(order, padded, strict=True):
        prompt = jnp.pad(batch["prompts"][number : number + 1], ((0, 0), (0, 9)))[:, :size]
        state, prompts = model.prefill(prompt, batch["lengths"][number : number + 1])
        cache = model.enter(cache, jnp.array([[number]]), prompts, jnp.int32(place))
        hidden[number], place = state[0], place + size
    return jnp.stack([hidden[number] for number in range(NUM_PROMPTS)]), cache


def test_decoding_equals_scoring_with_rows_left_out_and_caches_that_grow(
    model, batch, small_blocks
):
    """Stacked and not; with rows that are all at the same token, and with rows that are not."""
    assert len(model.prompt_sizes(SIZE)) > 3
    expected = score_logits(model, batch).reshape(NUM_PROMPTS * GROUP, LENGTH, -1)
    responses = batch["responses"].reshape(NUM_PROMPTS * GROUP, LENGTH)
    for unstack, order in ((False, (0, 1)), (True, (1, 0))):
        policy = unstacked(model, unstack)
        decode = jax.jit(lambda model, *inputs: model.decode(*inputs))
        hidden, cache = started(policy, batch, order, 3)
        first = policy.unembed(hidden)
        np.testing.assert_allclose(first, expected[::GROUP, 0], rtol=0, atol=5e-5)
        # Rows of both prompts; then none of the first prompt; then one row.
        left, rows = {2: [1, 0, 3, 5], 4: [3, 5], 5: [5]}, list(range(NUM_PROMPTS * GROUP))
        for step in range(LENGTH - 1):
            if step in left:
                kept = jnp.asarray([[rows.index(row) for row in left[step]]])
                before = jax.tree.leaves((cache.keys, cache.prompt_values))
                cache, rows = policy.keep(cache, kept), left[step]
                assert all(array.is_deleted() for array in before)
            if step == 3:
                small = cache.blocks[1]
                # More room than the tokens need, for the blocks to become larger.
                before = jax.tree.leaves((cache.keys, cache.values))
                cache = policy.grow(cache, 16)
                assert all(array.is_deleted() for array in before)
                assert cache.blocks[1] == 2 * small
            logits, cache = decode(policy, responses[None, rows, step], jnp.int32(step), cache)
            np.testing.assert_allclose(logits[0], expected[rows, step + 1], rtol=0, atol=5e-5)
        # Only the blocks of the prompt that is left are read.
        assert cache.shelf.lengths.tolist() == [[LENGTHS[1]]]
        assert int(cache.shelf.used) < cache.shelf.owner.shape[1]

        # The second prompt's rows stand still every other turn.
        _, cache = started(policy, batch, order, LENGTH)
        steps = jnp.zeros(NUM_PROMPTS * GROUP, jnp.int32)
        number = jnp.arange(NUM_PROMPTS * GROUP)
        for turn in range(LENGTH - 1):
            logits, cache = decode(policy, responses[number, steps][None], steps[None], cache)
            np.testing.assert_allclose(logits[0], expected[number, steps + 1], rtol=0, atol=5e-5)
            steps = steps + jnp.repeat(jnp.array([1, turn % 2]), GROUP)


def test_a_step_copies_nothing_of_the_size_of_a_cache(model, small_blocks):
    """The compiled step of a policy with room for 999 tokens moves what a few blocks hold."""
    for unstack in (False, True):
        policy = unstacked(model, unstack)
        cache = policy.start(1, 2, size=999, capacity=999)
        steps = (jnp.zeros((1, 2), jnp.int32), jnp.int32(500))
        leaves, tree = jax.tree.flatten(cache)

        def step(leaves, policy=policy, tree=tree, steps=steps):
            logits, cache = policy.decode(*steps, jax.tree.unflatten(tree, leaves))
            return logits, jax.tree.leaves(cache)

        program = jax.jit(step, donate_argnums=0).lower(leaves).compile()
        whole = min(cache.keys[0].size, cache.prompt_keys[0].size)
        copies = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|dynamic-slice)\(", program.as_text())
        sizes = [math.prod(map(int, shape.split(","))) for shape in copies]
        assert sizes and max(sizes) < whole


def test_padding_of_the_prompt_changes_nothing(model, batch):
    other = dict(batch, prompts=batch["prompts"].at[1, 4:].set(39))
    np.testing.assert_array_equal(score_logits(model, batch)[1], score_logits(model, other)[1])


def test_rematerialisation_changes_no_gradient(model, batch):
    params = {**top_arrays(model), **layer_arrays(model)}

    @jax.jit
    def gradients(params):
        def loss(params, config):
            top = {name: params[name] for name in top_specs(config)}
            layers = {name: params[name] for name in layer_specs(config)}
            return jnp.sum(jnp.square(Transformer(config, top, layers).score(**batch)))

        policies = ("full", "none", "dots", "attention")
        configs = [dataclasses.replace(model.config, remat=policy) for policy in policies]
        return [jax.grad(loss)(params, config) for config in configs]

    full, *others = gradients(params)
    for other in others:
        for name, gradient in full.items():
            np.testing.assert_allclose(gradient, other[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_bfloat16_compute_keeps_logits_float32_and_close(batch):
    exact = tiny_model("llama_plain")
    rounded = tiny_model("llama_plain", dtype="bfloat16")
    expected = score_logits(exact, batch)
    logits = score_logits(rounded, batch)
    assert logits.dtype == jnp.float32
    prefill = jax.jit(lambda model: model.prefill(batch["prompts"], batch["lengths"]))
    assert prefill(rounded)[1].keys.dtype == jnp.bfloat16
    error = jnp.abs(logits - expected)
    assert 0 < float(error.mean()) < 0.15
    assert float(error.max()) < 1.5


def test_scoring_is_traced_once_for_one_shape(model, batch):
    traces = []

    @jax.jit
    def score(model, batch):
        traces.append(1)
        return model.score(**batch)

    score(model, batch)
    score(jax.tree.map(lambda x: x + 0, model), batch)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("smollm2-135m", 134_515_008),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.1-8b", 8_030_261_248),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, published):
    shapes = jax.eval_shape(lambda: random_transformer(PRESETS[name], jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == published


def test_parameters_of_another_size_are_refused(model):
    top = dict(top_arrays(model), final_norm=jnp.ones(7))
    with pytest.raises(ValueError, match="sizes ask for"):
        Transformer(model.config, top, layer_arrays(model))


@pytest.mark.parametrize("name", ["qwen2_yarn", "llama_plain"])
def test_logits_of_some_tokens_equal_those_of_the_whole_vocabulary(name):
    model = tiny_model(name)
    hidden = jax.random.normal(jax.random.key(0), (2, 5, model.config.width))
    tokens = jax.random.randint(jax.random.key(1), (2, 5, 3), 0, model.config.vocab_rows)
    expected = jnp.take_along_axis(model.unembed(hidden), tokens, axis=-1)
    np.testing.assert_allclose(model.unembed_at(hidden, tokens), expected, atol=1e-5)


def test_a_prompt_takes_the_place_of_another(model, batch, small_blocks):
    """Its rows begin anew: what the cache held before has no part in them."""
    tokens, steps = batch["responses"][:, :, 0].reshape(1, -1), jnp.zeros((1, 6), jnp.int32)
    for unstack in (False, True):
        policy = unstacked(model, unstack)
        size = policy.prompt_sizes(SIZE)[-1]
        cache = policy.start(NUM_PROMPTS, GROUP, size=SIZE, capacity=LENGTH)
        prompts = jnp.pad(batch["prompts"], ((0, 0), (0, size - SIZE)))
        for slot, number in ((0, 1), (1, 0), (0, 0), (1, 1)):
            one = policy.prefill(prompts[number : number + 1], batch["lengths"][number][None])[1]
            cache = policy.enter(cache, jnp.array([[slot]]), one, jnp.int32(slot * size))
        got, _ = policy.decode(tokens, steps, cache)
        _, together = started(policy, batch, (0, 1), LENGTH)
        expected, _ = policy.decode(tokens, steps, together)
        np.testing.assert_allclose(got, expected, atol=1e-5)
