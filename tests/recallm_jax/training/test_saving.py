"""A checkpoint counts only if its parameters are numbers to compute with."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax.models.transformer import random_transformer
from recallm_jax.policy import checkpoint
from recallm_jax.policy.tiny import TINY
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.termination import Termination
from recallm_jax.training.saving import Saver
from recallm_jax.training.stages import Progress, Stage
from rl.learner import init_state

# Orbax warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore")
OPTIMIZER = optax.sgd(1.0)
STAGE = Stage("grpo", 0, 2, 1, 0, OPTIMIZER)


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:2]), ("data",))


@pytest.fixture
def state(mesh):
    sizes = dataclasses.replace(TINY, vocab_rows=8, width=16, mlp_dim=16, num_layers=1)
    policy = random_transformer(sizes, jax.random.key(0))
    return jax.device_put(init_state(policy, OPTIMIZER), NamedSharding(mesh, PartitionSpec()))


def spoilt(state, value):
    """Return the state after an update that left `value` in one parameter."""
    gate = state.policy.layers.gate
    changed = jax.tree.map(lambda x: x.at[0, 3, 5].set(value), gate)
    flat, structure = jax.tree.flatten(state.policy)
    leaves = [jax.tree.leaves(changed)[0] if x is jax.tree.leaves(gate)[0] else x for x in flat]
    return dataclasses.replace(state, policy=jax.tree.unflatten(structure, leaves))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_last_update_that_breaks_a_parameter_leaves_the_checkpoint_before(
    tmp_path, mesh, state, value
):
    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        saver = Saver(manager, STAGE, 1, Termination(), mesh)
        saver.save(1, state, Progress())
        message = (
            r"parameter layers\.gate\S* of grpo holds NaN, infinity, or a value above 1\.8e\+19 "
            "after step 1, so no checkpoint of it is saved; start again with a lower learning rate"
        )
        with pytest.raises(UserError, match=message):
            saver.save(2, spoilt(state, value), Progress())
        saver.finish()
        assert manager.latest_step() == 1
        saver.save(2, spoilt(state, 1e19), Progress())
        saver.finish()
        assert manager.latest_step() == 2
