"""Meshes and shardings: where arrays lie, and which meshes are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from decoding.packing import RowSize, Slots
from recallm_jax.models.presets import PRESETS
from recallm_jax.policy.partitioning import (
    ROLLOUT_RULES,
    TRAIN_RULES,
    batch_sharding,
    check_attention,
    check_config,
    make_mesh,
    model_shardings,
    partition_spec,
    place_model,
    placement,
    state_shardings,
)
from recallm_jax.runtime.errors import UserError
from rl.micro_batches import Parts
from tests.oracles.tiny_models import tiny_model

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (simulated) devices")


def specs_of(shardings):
    """Return the spec of each parameter by its own name."""
    names = ((path[-2].name, s.spec) for path, s in jax.tree.leaves_with_path(shardings))
    return dict(names)


@needs_eight
def test_parameters_lie_as_their_rules_say():
    model = tiny_model("llama_plain")
    mesh = make_mesh(fsdp=2, sequence=2, tensor=2)
    shardings = model_shardings(model, mesh)
    assert jax.tree.structure(shardings) == jax.tree.structure(model)
    train = specs_of(shardings)
    split = ("fsdp", "sequence")
    assert train["embedding"] == PartitionSpec("tensor", split)
    assert train["query"] == PartitionSpec(None, split, "tensor")
    assert train["down"] == PartitionSpec(None, "tensor", split)
    # A parameter with the name of a field that every parameter has must not be mistaken for it.
    assert train["value"] == PartitionSpec(None, split, "tensor")
    assert train["final_norm"] == PartitionSpec()
    rollout = specs_of(model_shardings(model, mesh, ROLLOUT_RULES))
    assert rollout["query"] == PartitionSpec(None, None, "tensor")


@needs_eight
def test_heads_are_never_cut_in_two():
    # One key head of 12 numbers: 12 divides by 2, one head does not.
    model = tiny_model("smollm2_plain")
    specs = specs_of(model_shardings(model, make_mesh(fsdp=2, tensor=2)))
    assert specs["key"] == PartitionSpec(None, "fsdp")


@needs_eight
@pytest.mark.parametrize("sizes", [{"data": 4}, {"fsdp": 4}])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_each_device_computes_the_scores_of_its_own_prompts_only(sizes, num_parts):
    model = tiny_model("llama_plain")
    batch = (
        jnp.zeros((8, 64), jnp.int32),
        jnp.full(8, 64, jnp.int32),
        jnp.zeros((8, 2, 32), jnp.int32),
    )

    @jax.jit
    def gradient(model, *batch):
        rows = jnp.zeros((8, 2), jnp.int32)
        parts = Parts(Slots(rows, rows), 0, num_parts, RowSize(2, 32), num_parts)

        def loss(model):
            split = [parts.split(batch, number)[0] for number in range(num_parts)]
            return sum(model.score(*one).sum() for one in split)

        return jax.grad(loss)(model)

    def flops(model, batch):
        return gradient.lower(model, *batch).compile().cost_analysis()["flops"]

    mesh = make_mesh(**sizes)
    placed = place_model(model, mesh), jax.device_put(batch, batch_sharding(mesh))
    assert flops(*placed) < 0.3 * flops(model, batch)


@needs_eight
def test_optimiser_state_lies_as_its_parameters():
    model = tiny_model("llama_plain")
    mesh = make_mesh(fsdp=4)
    state = {"count": jnp.zeros(()), "moments": (model, model)}
    shardings = state_shardings(state, model.config, mesh)
    assert shardings["count"].spec == PartitionSpec()
    expected = model_shardings(model, mesh)
    assert jax.tree.leaves(shardings["moments"][1]) == jax.tree.leaves(expected)


@needs_eight
def test_a_mesh_axis_that_does_not_divide_is_dropped():
    spec = partition_spec(("batch", None), (6, 5), make_mesh(data=2, fsdp=4), TRAIN_RULES)
    assert spec == PartitionSpec("data")


@needs_eight
def test_what_splits_nothing_is_not_named():
    mesh = make_mesh(fsdp=2, tensor=2)
    spec = partition_spec(("batch", None, "heads"), (8, 5, 3), make_mesh(), TRAIN_RULES)
    assert spec == PartitionSpec()
    spec = partition_spec(("batch", "heads", "layers"), (8, 4, 3), mesh, TRAIN_RULES)
    assert spec == PartitionSpec("fsdp", "tensor")


def test_collisions_and_unknown_axes_are_refused():
    mesh = make_mesh()
    with pytest.raises(UserError, match=r"'embed' and 'batch' of one array both lie on .*'fsdp'"):
        partition_spec(("embed", "batch"), (4, 4), mesh, TRAIN_RULES)
    with pytest.raises(UserError, match="logical axis 'colour' has no rule"):
        partition_spec(("colour",), (4,), mesh, TRAIN_RULES)


def test_impossible_meshes_are_refused():
    with pytest.raises(UserError, match="needs 4096 devices, but there are"):
        make_mesh(fsdp=4096)
    with pytest.raises(UserError, match="mesh axis tensor = 0; it must be at least 1"):
        make_mesh(tensor=0)


@needs_eight
def test_a_model_that_its_mesh_cannot_split_is_refused():
    with pytest.raises(UserError, match=r"num_heads = 9 cannot be split into 2 parts"):
        check_config(PRESETS["smollm2-135m"], make_mesh(tensor=2))
    check_config(PRESETS["llama-3.1-8b"], make_mesh(fsdp=2, tensor=4))


@dataclasses.dataclass(frozen=True)
class Chip:
    """The attributes of a TPU device that meshes read; two slices of four."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0

    @property
    def slice_index(self):
        return self.id // 4

    @property
    def coords(self):
        return (self.id % 2, self.id // 2 % 2, 0)


def test_only_data_crosses_from_slice_to_slice():
    chips = [Chip(number) for number in range(8)]
    for sizes in ({"data": 2, "tensor": 4}, {"data": 4, "fsdp": 2}, {"data": 2, "sequence": 4}):
        mesh = make_mesh(**sizes, devices=chips)
        slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
        assert mesh.size == 8
        # Along every other axis all chips are in one slice; the two halves of `data` are in two.
        assert (slices == slices[:, :1, :1, :1]).all()
        assert np.array_equal(slices[:, 0, 0, 0], np.repeat([0, 1], sizes["data"] // 2))
    with pytest.raises(UserError, match=r"data = 1 cannot be split over 2 slices; make it a mult"):
        make_mesh(tensor=8, devices=chips)
    with pytest.raises(UserError, match=r"does not fit the 6 chosen of 8 TPU devices"):
        make_mesh(data=2, fsdp=3, devices=chips)


def test_attention_is_chosen_by_the_devices_of_the_mesh():
    chips = make_mesh(fsdp=4, devices=[Chip(number) for number in range(4)])
    assert placement(chips).splash and not placement(chips, attention="xla").splash
    assert placement(make_mesh()).attention == "xla"


def test_prompts_attend_by_cudnn_on_gpus():
    def mesh(capability):
        device = Chip(0, platform="gpu")
        object.__setattr__(device, "compute_capability", capability)
        return jax.sharding.Mesh(np.array([device]), ("data",))

    assert placement(mesh("9.0")).attention == placement(mesh("8.0")).attention == "cudnn"
    # A T4, and one of AMD.
    assert placement(mesh("7.5")).attention == placement(mesh("gfx942")).attention == "xla"
    assert placement(mesh("9.0"), attention="xla").attention == "xla"
    with pytest.raises(UserError, match="'splash' needs TPUs, and the devices here are gpu; use"):
        check_attention("splash", mesh("9.0"))
    with pytest.raises(UserError, match="'cudnn' needs GPUs, and the devices here are cpu; use"):
        check_attention("cudnn", make_mesh())
