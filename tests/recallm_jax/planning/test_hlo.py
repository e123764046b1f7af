"""Traffic is counted from a program's text: sizes, groups, loops and branches by hand."""

import pytest

from recallm_jax.planning.hlo import array_bytes, traffic

PROGRAM = """
HloModule jit_update, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%wrapped (p: f32[16,4]) -> f32[4,4] {
  %p = f32[16,4]{1,0} parameter(0)
  ROOT %rs = f32[4,4]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%sum
}

%layer (p: (s32[], bf16[2,100])) -> (s32[], bf16[2,100]) {
  %p = (s32[], bf16[2,100]{1,0}) parameter(0)
  %g = bf16[8,100]{1,0:T(8,128)(2,1)} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}
  %s = ((f32[16,4]{1,0}), f32[4,4]{1,0}, u32[]) async-start(%y), calls=%wrapped
  %d = f32[4,4]{1,0} async-done(%s), calls=%wrapped
  ROOT %t = (s32[], bf16[2,100]{1,0}) tuple(%i, %g)
}

%forever (p: (s32[])) -> pred[] {
  ROOT %c = pred[] constant(true)
}

%few (p: (s32[])) -> pred[] {
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%two (p: (s32[])) -> pred[] {
  %n.1 = s32[]{:T(128)} constant(2)
  %p = (s32[], f32[4]{0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %n.1), direction=LT, metadata={op_name="cond/lt"}
}

%begins (p: f32[16]) -> f32[1] {
  %g.1 = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] \
{'axis_0'}, frontend_attributes={chain_id="3"}
  ROOT %x = f32[1]{0} slice(%g.1)
}

%ends (p: f32[16]) -> f32[64] {
  ROOT %g.2 = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] \
{'axis_0'}, frontend_attributes={chain_id="3"}
}

%twice (p: (s32[])) -> (s32[]) {
  ROOT %b = f32[100]{0} collective-broadcast(%p), replica_groups=mesh['a'=4,'b'=2] {'a','b'}
}

%step (p: f32[10]) -> f32[10] {
  %all = f32[10]{0} all-reduce(%p), replica_groups=[4,2]<=[8], to_apply=%sum
  %inner = (s32[], bf16[2,100]{1,0}) while(%t), condition=%few, body=%layer, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %b = f32[10]{0} conditional(%i, %p, %p), branch_computations={%left, %right}
}

%left (p: f32[10]) -> f32[10] {
  ROOT %x = f32[10]{0} all-to-all(%p), replica_groups={{0,1},{2,3}}, dimensions={0}
}

%right (p: f32[10]) -> f32[10] {
  ROOT %p = f32[10]{0} parameter(0)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %layers = (s32[], bf16[2,100]{1,0}) while(%t), condition=%few, body=%layer, \
backend_config={"known_trip_count":{"n":"28"}}
  %moved = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%p), \
source_target_pairs={{0,1},{1,0}}
  %there = f32[8]{0} collective-permute-done(%moved)
  %begun = (f32[2]{0}, f32[8]{0}) all-gather-start(%q), replica_groups={{0,1,2,3}}
  %piece_1 = f32[1]{0} fusion(%p), kind=kLoop, calls=%begins
  %piece_2 = f32[64]{0} fusion(%p), kind=kLoop, calls=%ends
  %off = (f32[6]{0}, u32[]{:S(2)}, token[]) send(%p, %a), channel_id=6, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %home = (f32[6]{0}, u32[]{:S(2)}, token[]) send(%p, %a), channel_id=8, is_host_transfer=true
  %short = (s32[]) while(%t), condition=%two, body=%twice
  %alone = f32[8]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%sum
  ROOT %decoded = f32[10]{0} while(%t), condition=%forever, body=%step
}
"""


def test_a_collective_in_a_loop_is_counted_as_often_as_the_loop_runs():
    found = traffic(PROGRAM)
    # Each of four chips sends three quarters of 8 x 100 bfloat16 numbers, in 28 layers; of the
    # all-gather that is started apart, three quarters of 8 float32 numbers; and of the one that
    # spans two fusions of a chain, three quarters of 64, once.
    assert found.once["all-gather"] == (28 * 8 * 100 * 2 + 8 * 4 + 64 * 4) * 3 // 4
    # The condition counts to two; the group is the whole mesh of eight.
    assert found.once["collective-broadcast"] == 2 * 400 * 7 // 8
    # Each chip is left with 4 x 4 numbers and sends as many to each of three others. The `done` of
    # the pair sends nothing more.
    assert found.once["reduce-scatter"] == 28 * 4 * 4 * 4 * 3
    # Only the received array counts, not the sent one beside it, nor the two counters.
    assert found.once["collective-permute"] == 8 * 4
    # The array that goes to the host for other slices counts; the one that the host keeps doesn't.
    assert found.once["between slices"] == 6 * 4
    # One chip in a group sends nothing.
    assert found.once.get("all-reduce", 0) == 0


def test_traffic_of_a_loop_of_unknown_length_is_given_for_one_round():
    found = traffic(PROGRAM)
    # Twice half of 10 numbers; both branches are counted.
    assert found.each_round["all-reduce"] == 2 * 40 // 2
    assert found.each_round["all-to-all"] == 40 // 2
    assert found.each_round["all-gather"] == 3 * 8 * 100 * 2 * 3 // 4
    total = found.total(5)
    assert total["all-reduce"] == 5 * 40
    assert total["all-gather"] == found.once["all-gather"] + 5 * found.each_round["all-gather"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[4,8]{1,0:T(8,128)}", 128),
        ("bf16[3]", 6),
        ("pred[5]", 5),
        ("s32[]", 4),
        ("(f32[2], u8[3]{0})", 11),
        ("f8e4m3fn[16]", 16),
        ("s4[16]", 8),
    ],
)
def test_bytes_of_types(text, size):
    assert array_bytes(text) == size
