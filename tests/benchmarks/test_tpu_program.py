"""The operations and memory of a compiled decode loop, from a program written by hand."""

import numpy as np

from benchmarks.tpu_program import HOST_MEMORY, loop_operations, num_elements, tiled_bytes

PROGRAM = """
HloModule jit_decode

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %g = f32[2,8]{1,0:T(8,128)} gather(%p, %p), offset_dims={}
}

%small_body (p: s32[]) -> s32[] {
  ROOT %p = s32[] parameter(0)
}

%branch (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %s = (f32[4]{0}, s32[4]{0}) sort(%p, %p), dimensions={0}, to_apply=%compare
}

%compare (a: f32[], b: f32[]) -> pred[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %l = pred[] compare(%a, %b), direction=LT
}

%body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %f = f32[2,8]{1,0} fusion(%p), kind=kLoop, calls=%fused
  ROOT %c = f32[4]{0} conditional(%p, %p), branch_computations={%branch, %branch}
}

%condition (p: f32[4]) -> pred[] {
  %p = f32[4]{0} parameter(0)
  ROOT %t = pred[] constant(true)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %outside = f32[4]{0} sort(%p), dimensions={0}, to_apply=%compare
  %first = s32[] while(%p), condition=%condition, body=%small_body
  ROOT %loop = f32[4]{0} while(%p), condition=%condition, body=%body
}
"""


def test_only_the_operations_that_the_larger_loop_calls_are_found():
    names = [name for name, _ in loop_operations(PROGRAM)]
    assert sorted(set(names) - {"parameter"}) == [
        "compare",
        "conditional",
        "fusion",
        "gather",
        "sort",
    ]
    # The sort outside the loop is not counted.
    assert names.count("sort") == 1


def test_elements_are_those_of_the_largest_array_of_a_result():
    assert num_elements("(f32[4]{0}, s32[2,8]{1,0:T(8,128)})") == 16
    assert num_elements("pred[]") == 1
    assert HOST_MEMORY in "f32[4]{0:T(128)S(5)}"


def test_arrays_are_rounded_up_to_tiles_of_their_last_two_axes():
    assert tiled_bytes((2, 3, 17, 64), np.dtype("bfloat16")) == 2 * 3 * 32 * 128 * 2
    assert tiled_bytes((8, 129), np.dtype("float32")) == 8 * 256 * 4
    assert tiled_bytes((5,), np.dtype("int32")) == 8 * 128 * 4
    assert tiled_bytes((40, 1), np.dtype("bool")) == 64 * 128
