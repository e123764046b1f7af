"""Memory of abstract arrays, of compiled programs, and of programs that the compiler refuses."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recallm_jax.planning.memory import (
    GIB,
    bytes_per_chip,
    compiled_memory,
    largest_temporaries,
    moving_memory,
    parse_refusal,
    refused_memory,
)
from recallm_jax.policy.partitioning import make_mesh

ASSIGNMENT = """BufferAssignment:
allocation 0: size 98304, page 0, parameter 0, shape |f32[384,64]| at ShapeIndex {}:
 value: <6155 param.26 @0> (size=98304,offset=0): f32[384,64]{0,1:T(8,128)}
allocation 7: size 70000, color 1, page 0, preallocated-temp:
 value: <9 in_vmem @0> (size=70000,offset=0): f32[17500]{0}
allocation 8: size 12000, page 0, preallocated-temp:
 value: <1 small @0> (size=400,offset=8000): f32[100]{0}
 value: <2 fusion.3{1} @0> (size=4000,offset=4000): f32[10,100]{1,0:T(8,128)}
 value: <3 while.body.4 @0> (size=4000,offset=0): bf16[20,100]{1,0}
 value: <4 later @0> (size=4000,offset=4000): s32[1000]{0}

Total bytes used: 180304
 value: <5 no_value @0> (size=9000,offset=1): f32[1]{0}
"""
TEXT = """
  %fusion.3 = (f32[2]{0}, f32[10,100]{1,0}) fusion(%p), metadata={op_name="jit(f)/layer/dot"}
  %while.body.4 = bf16[20,100]{1,0} while(%p), condition=%c, body=%b
"""


def test_a_chip_holds_its_part_of_split_arrays_and_all_of_others():
    mesh = make_mesh(fsdp=4, tensor=2)

    def lies(shape, dtype, *spec):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )

    split = lies((8, 6), jnp.float32, "fsdp", "tensor")
    whole = lies((3,), jnp.bfloat16)
    assert bytes_per_chip(split) == 2 * 3 * 4
    assert bytes_per_chip({"a": (split, None), "b": whole}) == 24 + 6
    # A number that the host gives lies on every chip.
    assert bytes_per_chip(jax.ShapeDtypeStruct((), jnp.int32)) == 4
    # A key is two words, whatever type NumPy takes it for.
    assert bytes_per_chip(lies((4, 5), jax.random.key(0).dtype)) == 20 * 8


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (20.50G) exceeds available HBM (15.75G). HLO module: jit_f.",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
    ],
)
def test_a_refusal_says_how_much_was_asked_for(message):
    found = parse_refusal(message)
    assert found == 20.5 * GIB
    memory = refused_memory(found, {"parameters": 2 * GIB}, {"optimiser": GIB})
    # The memory that the compiler asks for, arguments included, and the memory it doesn't know of.
    assert memory.temporaries == 18.5 * GIB
    assert memory.total == 21.5 * GIB


def test_a_refusal_for_another_reason_is_not_one_of_hbm():
    assert parse_refusal("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.") is None


def test_the_largest_temporaries_are_named_by_the_operators_that_make_them():
    found = largest_temporaries(ASSIGNMENT, TEXT, count=3)
    # Arguments and other memory are left out, and so is one of the two that take turns.
    assert [(one.size, one.shape.partition("{")[0], one.operator) for one in found] == [
        (4000, "f32[10,100]", "jit(f)/layer/dot"),
        (4000, "bf16[20,100]", "while.body.4"),
        (400, "f32[100]", "small"),
    ]


def test_the_total_counts_each_byte_once():
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=110,
        output_size_in_bytes=60,
        # 40 of the 60 take the place of arguments.
        alias_size_in_bytes=40,
        temp_size_in_bytes=1000,
        generated_code_size_in_bytes=7,
    )
    memory = compiled_memory(analysis, {"parameters": 70, "batch": 30}, {"optimiser": 5})
    assert memory.padding == 10
    assert memory.outputs == 20
    assert memory.total == 110 + 20 + 1000 + 7 + 5


def test_caches_that_move_have_one_array_twice():
    memory = refused_memory(160, {"parameters": 100}, {})
    assert moving_memory(memory, {}) == memory
    # Keys of responses beside keys and values of all, which leave no room for the other 10 bytes.
    assert moving_memory(memory, {"prompts": 10, "responses": 40}).temporaries == 10 + 40 + 20
    assert moving_memory(memory, {"prompts": 10, "responses": 20}).temporaries == 60
