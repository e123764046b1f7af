import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rl.optimizer import Schedule, adamw, train_rows_only

ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}


def constant(learning_rate):
    return Schedule(learning_rate, steps=100, warmup_fraction=0.0, final_fraction=1.0)


def optimizer(learning_rate=0.1, *, weight_decay=0.0, clip_norm=1e9):
    return adamw(constant(learning_rate), **ADAM, weight_decay=weight_decay, clip_norm=clip_norm)


class Model(nnx.Module):
    """The leaves that the row optimiser looks for, and one that it must leave alone."""

    def __init__(self, *, tied: bool, dtype=jnp.float32):
        self.embedding = nnx.Param(jnp.arange(12.0, dtype=dtype).reshape(6, 2))
        self.norm = nnx.Param(jnp.ones(2, dtype))
        if not tied:
            self.output = nnx.Param(-jnp.arange(12.0, dtype=dtype).reshape(6, 2))


def ones(model):
    return jax.tree.map(jnp.ones_like, model)


def stepped(transformation, model, gradient, num_steps=1):
    state = transformation.init(model)
    for _ in range(num_steps):
        updates, state = transformation.update(gradient, state, model)
        model = optax.apply_updates(model, updates)
    return model


def test_schedule_by_hand():
    schedule = Schedule(1.0, steps=10, warmup_fraction=0.2, final_fraction=0.1)
    rates = [float(schedule(step)) for step in (0, 1, 2, 6, 10, 11)]
    # Half-way the cosine is midway between 1 and 0.1; a cosine to 0 would be at 0.5.
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 1.0, 0.55, 0.1, 0.1], rtol=1e-5)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert float(Schedule(2e-6, steps=60, warmup_fraction=0.0)(0)) == pytest.approx(2e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.02, 0.05, 1.0])
def test_every_step_has_a_rate_above_zero_and_not_above_the_peak(steps, warmup_fraction):
    schedule = Schedule(0.5, steps, warmup_fraction)
    rates = np.array([float(schedule(step)) for step in range(steps)])
    assert (rates > 0).all()
    assert (rates <= 0.5 + 1e-6).all()


def test_adamw_by_hand():
    params = {"w": jnp.array([2.0, -3.0])}
    gradient = {"w": jnp.array([5.0, -0.1])}
    # The first step of Adam is the rate times the gradient's sign, downhill; decay 0.5 takes
    # rate * 0.5 of the weight as well.
    moved = stepped(optimizer(0.1, weight_decay=0.5), params, gradient)
    np.testing.assert_allclose(moved["w"], [2.0 - 0.1 - 0.1, -3.0 + 0.1 + 0.15], rtol=1e-5)


def test_clipping_is_by_the_norm_of_all_leaves():
    # Adam hides the scale of a constant gradient but not that of its epsilon.
    transformation = adamw(
        constant(1.0), b1=0.9, b2=0.999, eps=1.0, weight_decay=0.0, clip_norm=1.0
    )
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    moved = stepped(transformation, params, gradient)
    # Clipped to 0.6 and 0.8; leaf by leaf it would be 1 and 1.
    np.testing.assert_allclose([moved["a"][0], moved["b"][0]], [-0.6 / 1.6, -0.8 / 1.8], rtol=1e-4)


def test_the_state_of_bfloat16_parameters_is_float32():
    model = Model(tied=False, dtype=jnp.bfloat16)
    state = optimizer().init(model)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype("float32")}
    moved = stepped(optimizer(), model, ones(model))
    assert moved.embedding[...].dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_only_the_given_rows_move(tied, dtype):
    model = Model(tied=tied, dtype=dtype)
    moved = stepped(train_rows_only(optimizer(), (1, 4)), model, ones(model), num_steps=3)
    for name in ("embedding",) if tied else ("embedding", "output"):
        before, after = (np.asarray(getattr(m, name)[...], np.float32) for m in (model, moved))
        assert (after[[1, 4]] < before[[1, 4]]).all()
        np.testing.assert_array_equal(after[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    np.testing.assert_array_equal(moved.norm[...], model.norm[...])


def test_rows_move_as_if_they_were_all_the_parameters():
    model = Model(tied=True)
    gradient = ones(model)
    # The others' gradient is huge: were it clipped together, or decayed, the rows would differ.
    gradient.embedding[...] = gradient.embedding[...].at[jnp.array([0, 2, 3, 5])].set(1e6)
    inner = adamw(constant(0.1), b1=0.9, b2=0.999, eps=0.1, weight_decay=0.1, clip_norm=1.0)
    moved = stepped(train_rows_only(inner, (1, 4)), model, gradient, num_steps=2)
    alone = {"rows": model.embedding[...][jnp.array([1, 4])]}
    alone = stepped(inner, alone, {"rows": jnp.ones((2, 2))}, num_steps=2)
    np.testing.assert_allclose(moved.embedding[...][jnp.array([1, 4])], alone["rows"], rtol=1e-6)


def test_the_state_holds_the_rows_only():
    state = train_rows_only(optimizer(), (1, 4)).init(Model(tied=False))
    # Two moments of two rows of width 2 of two matrices.
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * 2 * 2 * 2


def test_the_row_optimiser_runs_under_jit():
    model = Model(tied=True)
    transformation = train_rows_only(optimizer(), (1, 4))
    eager = stepped(transformation, model, ones(model))
    jitted = jax.jit(lambda m, g: stepped(transformation, m, g))(model, ones(model))
    np.testing.assert_allclose(jitted.embedding[...], eager.embedding[...], rtol=1e-6)


@pytest.mark.parametrize("rows", [(1, 6), (-1, 2)])
def test_rows_that_the_matrix_lacks_are_refused(rows):
    with pytest.raises(ValueError, match="not all in `embedding`, which has 6; add the new"):
        train_rows_only(optimizer(), rows).init(Model(tied=True))


def test_no_rows_or_no_matrix_are_refused():
    with pytest.raises(ValueError, match="no rows to train: 0 row numbers"):
        train_rows_only(optimizer(), ()).init(Model(tied=True))
    with pytest.raises(ValueError, match="the parameters need `embedding`"):
        train_rows_only(optimizer(), (1,)).init({"w": jnp.zeros((6, 2))})
