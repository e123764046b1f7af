"""Abstract arrays are those that a job holds: the same shapes, types and places on a mesh."""

import jax
import jaxtyping
import numpy as np
import pytest

from decoding.prompts import Prompts
from decoding.sampling import row_keys
from recallm_jax.config.load import load_config
from recallm_jax.planning import abstract
from recallm_jax.planning.memory import bytes_per_chip
from recallm_jax.planning.programs import (
    BATCH,
    GRADIENT,
    OPTIMISER,
    OTHERS,
    PARAMETERS,
    ROLLOUT,
    programs,
)
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.policy_stage import policy_stage
from recallm_jax.training.restore import placed_state
from recallm_jax.training.stages import plan_stages

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (simulated) devices")
SIZES = [
    *("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"),
    *("sft1.batch_size=8", "sft1.micro_batch=4", "sft2.batch_size=4", "sft2.micro_batch=4"),
    *("grpo.prompts_per_step=8", "grpo.micro_batch=4", "grpo.rollout_parts=2"),
    *("ppo.prompts_per_step=8", "ppo.micro_batch=4"),
    *("evaluation.batch_size=4", "evaluation.lengths=(256,512)"),
]


def config_of(*changes, algorithm="grpo"):
    arguments = [f"--config.{one}" for one in (*SIZES, *changes)]
    return load_config([f"--config=configs/quickstart.py:tiny,algorithm={algorithm}", *arguments])


@pytest.fixture(autouse=True)
def _without_checks_of_array_types():
    """Fields of dataclasses are typed as arrays, but hold abstract arrays here."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def assert_the_same(described, real):
    assert jax.tree.structure(described) == jax.tree.structure(real)
    for (path, one), other in zip(
        jax.tree.leaves_with_path(described), jax.tree.leaves(real), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert (one.shape, one.dtype) == (other.shape, other.dtype), name
        assert one.sharding.is_equivalent_to(other.sharding, len(one.shape)), name


@needs_eight
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_an_abstract_state_lies_like_the_states_of_training(algorithm):
    config = config_of("ppo.critic=own", algorithm=algorithm)
    context, described = set_up(config), abstract.abstract_context(config, jax.devices())
    assert_the_same(described.policy, context.policy)
    assert described.policy.config == context.policy.config
    for real, stage in zip(
        plan_stages(config, context), plan_stages(config, described), strict=True
    ):
        state = placed_state(context.policy, real, context)
        assert_the_same(abstract.learner_state(described.policy, stage, described), state)
    assert_the_same(for_rollout(described.policy), for_rollout(context.policy))


@needs_eight
def test_an_abstract_batch_lies_like_those_of_a_job():
    config = config_of()
    context, described = set_up(config), abstract.abstract_context(config, jax.devices())
    for count in (8, 3):
        # Three prompts can't be split over four devices.
        flags = np.zeros((count, 64), bool)
        real = Prompts(
            np.zeros((count, 64), np.int32), np.zeros(count, np.int32), flags, flags, flags
        )
        assert_the_same(abstract.prompts(described, count, 64), context.place(real))
    keys = row_keys(0, 0, np.arange(8, dtype=np.uint32), 4)
    stage = plan_stages(config, described)[-1]
    run = policy_stage(config, described, stage)
    group = abstract.BatchSizes(8, 64, 4)
    decoding = abstract.decoding(described, described.policy, group, run.sampling, run.limits)
    assert (decoding.keys.shape, decoding.keys.dtype) == (keys.shape, keys.dtype)


@needs_eight
def test_the_programs_of_a_run_are_those_of_its_stages_and_evaluations():
    config = config_of()
    context = abstract.abstract_context(config, jax.devices())
    found = {program.name: program for program in programs(config, context)}
    assert list(found) == [
        *("sft1.update", "sft1.apply", "sft2.update", "sft2.apply"),
        *("grpo.reshard", "grpo.rollout", "grpo.reference", "grpo.update", "grpo.apply"),
        *("evaluation.reshard", "evaluation.256", "evaluation.512"),
    ]
    rollout, update = found["grpo.rollout"], found["grpo.update"]
    # A part of the prompts at a time; all other arrays of the step stay in memory.
    prompts, _ = rollout.arguments[BATCH]
    assert prompts.tokens.shape[0] == 4
    assert rollout.runs == 2
    held = {name: bytes_per_chip(tree) for name, tree in rollout.resident.items()}
    # The gradient is made beside the optimiser's state, which only its application reads.
    apply = found["grpo.apply"]
    assert held[OPTIMISER] == bytes_per_chip(apply.arguments[OPTIMISER])
    assert held[OPTIMISER] == bytes_per_chip(update.resident[OPTIMISER])
    # Decoding shares the norms: two a layer and the last, each of 64 float32 numbers.
    held[PARAMETERS] += 5 * 64 * 4
    assert held[PARAMETERS] == bytes_per_chip(update.arguments[PARAMETERS])
    # There are two micro-batches, so their gradients are summed.
    assert update.rounds == 2
    for program in (update, apply):
        assert held[PARAMETERS] == bytes_per_chip(program.arguments[GRADIENT])
    # Phase 1 of the cold start trains rows of the vocabulary's matrices.
    matrices = bytes_per_chip(found["sft1.apply"].arguments[GRADIENT])
    assert 0 < matrices < 0.9 * held[PARAMETERS]
    assert bytes_per_chip(found["sft2.apply"].arguments[GRADIENT]) == held[PARAMETERS]
    # The starting policy, and the one that GRPO starts from.
    assert held[OTHERS] == 2 * held[PARAMETERS]
    assert ROLLOUT not in held
    # Parameters are not split over `data`, nor, while decoding, over `fsdp`.
    assert bytes_per_chip(rollout.arguments[ROLLOUT]) > held[PARAMETERS]
    # Two layers, keys and values of 4 prompts of 2 heads of 16 float32 numbers: a head a chip, and
    # a prompt on each of four.
    cache = bytes_per_chip(rollout.caches["prompts"])
    assert cache == 2 * 2 * 256 * 16 * 4
    assert bytes_per_chip(rollout.caches["responses"]) == 2 * 2 * 2 * 192 * 16 * 4
    reference = found["grpo.reference"]
    assert bytes_per_chip(reference.arguments[OTHERS]) == held[PARAMETERS]
    assert bytes_per_chip(reference.resident[OTHERS]) == held[PARAMETERS]
    assert bytes_per_chip(found["evaluation.512"].resident[OTHERS]) == held[PARAMETERS]


@needs_eight
def test_frozen_arrays_are_in_memory_once():
    """Without fsdp, decoding reads the frozen model where it lies; the rest are adapters."""
    config = config_of(
        *("model.lora.rank=4", "model.dtype=bfloat16", "model.param_dtype=bfloat16"),
        *("mesh.data=2", "mesh.fsdp=1", "mesh.tensor=2"),
    )
    context = abstract.abstract_context(config, jax.devices())
    found = {program.name: program for program in programs(config, context)}
    adapters = bytes_per_chip(context.policy.trained())
    whole = bytes_per_chip(context.policy)
    assert 0 < adapters < 0.5 * whole
    rollout, update, apply = (found[f"grpo.{name}"] for name in ("rollout", "update", "apply"))
    # The sampler's adapters are bfloat16.
    assert bytes_per_chip(rollout.arguments[ROLLOUT]) == whole - adapters + adapters // 2
    held = {name: bytes_per_chip(tree) for name, tree in rollout.resident.items()}
    assert held[PARAMETERS] == adapters
    assert held[OTHERS] == 2 * adapters
    assert held[OPTIMISER] == pytest.approx(2 * adapters, rel=1e-3)
    assert bytes_per_chip(found["grpo.reshard"].arguments[PARAMETERS]) == adapters
    assert bytes_per_chip(update.arguments[PARAMETERS]) == whole
    for program in (update, apply):
        assert bytes_per_chip(program.arguments[GRADIENT]) == adapters
    assert bytes_per_chip(apply.arguments[PARAMETERS]) == whole


@needs_eight
def test_ppo_scores_the_old_policy_and_keeps_the_batch_between_updates():
    config = config_of("ppo.minibatches=2", "ppo.epochs=3", algorithm="ppo")
    context = abstract.abstract_context(config, jax.devices())
    found = {program.name: program for program in programs(config, context)}
    assert "ppo.old" in found
    update = found["ppo.update"]
    assert update.runs == 6
    part, _ = update.arguments[BATCH]
    assert part.rollout.tokens.shape[0] == 4
    assert part.returns.shape == part.old_values.shape
    assert bytes_per_chip(update.resident[BATCH]) == 2 * bytes_per_chip(part)


@needs_eight
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_bytes_of_every_argument_are_known(algorithm):
    config = config_of(algorithm=algorithm)
    for program in programs(config, abstract.abstract_context(config, jax.devices())):
        assert sum(map(bytes_per_chip, program.arguments.values())) > 0
        assert sum(map(bytes_per_chip, program.resident.values())) >= 0


@needs_eight
@pytest.mark.slow
def test_every_program_is_traced():
    """The functions of training take the abstract arguments; only TPUs compile them."""
    config = config_of("ppo.minibatches=2", algorithm="ppo")
    context = abstract.abstract_context(config, jax.devices())
    for program in programs(config, context):
        assert program.lower().as_text("hlo")


def test_sizes_that_a_mesh_does_not_divide_are_refused():
    config = config_of("mesh.data=1", "mesh.fsdp=1", "mesh.tensor=3")
    with pytest.raises(UserError, match=r"cannot be split into 3 parts over mesh axes"):
        abstract.abstract_context(config, jax.devices())
