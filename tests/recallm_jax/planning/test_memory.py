"""Memory of described arrays, of compiled programs, and of those that the compiler refuses."""

import types

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from recallm_jax.partitioning import make_mesh
from recallm_jax.planning.memory import (
    GIB,
    bytes_per_chip,
    compiled_memory,
    parse_refusal,
    refused_memory,
)

REFUSAL = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory \
space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.

Total hbm usage >= 20.75G:
    reserved        258.00M
    program          18.00G
    arguments         2.50G

Output size 0B; shares 0B with arguments.

Program hbm requirement 18.00G:
    HLO temp         18.00G (100.0% utilization: Unpadded (17.00G) Padded (17.00G))

  Largest program allocations in hbm:

  1. Size: 12.00G
     Operator: op_name="jit(policy_update)/while/body/dot_general" source_file="x.py" source_line=3
     Shape: f32[8,4096,98304]{2,1,0:T(8,128)}
     Unpadded size: 12.00G
     Allocation type: HLO temp
     ==========================

  2. Size: 512.50M
     Shape: bf16[2,2]{1,0}
"""


def test_a_chip_holds_its_part_of_what_is_split_and_all_of_what_is_not():
    mesh = make_mesh(fsdp=4, tensor=2)

    def lies(shape, dtype, *spec):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )

    split = lies((8, 6), jnp.float32, "fsdp", "tensor")
    whole = lies((3,), jnp.bfloat16)
    assert bytes_per_chip(split) == 2 * 3 * 4
    assert bytes_per_chip({"a": (split, None), "b": whole}) == 24 + 6
    # A key is two words, whatever NumPy thinks that its type is.
    assert bytes_per_chip(lies((4, 5), jax.random.key(0).dtype)) == 20 * 8


def test_a_refusal_says_how_much_was_asked_for_and_by_what():
    found = parse_refusal(REFUSAL)
    assert found.used == 20.5 * GIB
    assert found.limit == 15.75 * GIB
    assert [one.size for one in found.largest] == [12 * GIB, round(512.5 * (1 << 20))]
    assert found.largest[0].shape.startswith("f32[8,4096,98304]")
    assert found.largest[0].operator == "jit(policy_update)/while/body/dot_general"
    assert found.largest[1].operator == ""
    assert parse_refusal("RESOURCE_EXHAUSTED: out of vmem") is None
    memory = refused_memory(found, {"parameters": 2 * GIB}, {"optimiser": GIB})
    # What the compiler wants, and what it does not know of.
    assert memory.total == 21.5 * GIB


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
