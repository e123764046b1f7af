"""The decode loop: the tokens that it samples, and the sources of its spans."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding import driver
from decoding.decode_loop import SAMPLED, Limits, step
from decoding.driver import begin, decode, decode_at_once, enter_wave, plan_waves
from decoding.errors import DecodingInputError
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys, stack_sampling
from recallm_jax.models import group_attention, transformer
from tests.oracles.loops import for_each
from tests.oracles.span_oracle import context_of, matches
from tests.oracles.tiny_models import tiny_model
from tests.oracles.toy_decoding import (
    BOTH,
    END,
    EOS,
    GROUP,
    NEW,
    NUM_PROMPTS,
    PAPER_PROMPT,
    ROWS,
    RULES,
    SAMPLING,
    SIZE,
    START,
    VOCAB,
    assert_scored_as_sampled,
    make_prompts,
    oracle_prompt,
    real_tokens,
    sample_responses,
    score,
    span_loving_policy,
    spans_of,
)
from tests.oracles.toy_policy import random_toy_policy


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
@for_each("seed", range(2))
def test_every_closed_span_is_a_verbatim_copy_with_all_its_places(seed, rules):
    prompts = make_prompts(seed)
    rollout = sample_responses(span_loving_policy(seed), prompts, seed, rules=rules)
    spans = spans_of(rollout, rules)
    checked = repeated = 0
    for b in range(NUM_PROMPTS):
        prompt = oracle_prompt(prompts, b)
        for g in range(GROUP):
            tokens = np.asarray(rollout.tokens[b, g]).tolist()
            for span in spans[b][g]:
                copied = tokens[span.start : span.end]
                context = context_of(prompt, tokens[: span.start], rules, 0)
                places = matches(context, copied, rules.barriers)
                size = len(prompt.tokens)
                of_prompt = [p for p in places if p + len(copied) <= size]
                of_response = [p - size for p in places if p + len(copied) > size]
                assert span.closed and places
                assert [start for start, _ in span.occurrences] == of_prompt
                assert [start for start, _ in span.response_occurrences] == of_response
                assert (span.count, span.response_count) == (len(of_prompt), len(of_response))
                assert tokens[span.start - 1] == START and tokens[span.end] == END
                checked += 1
                repeated += bool(of_response) and not of_prompt
    assert checked > 20
    assert rules is RULES or repeated > 5


@pytest.mark.parametrize(
    "values",
    [
        [np.nan, 1.0, np.inf, -np.inf, -1e4, 3.4e38, -3.4e38],
        *(pytest.param([value], marks=pytest.mark.slow) for value in (np.nan, np.inf, -np.inf)),
    ],
    ids=["mixed", "NaN", "inf", "-inf"],
)
@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_spans_are_closed_copies_whatever_the_logits_hold(values, rules):
    pattern = np.resize(np.asarray(values, np.float32), (1, NUM_PROMPTS * GROUP, ROWS))
    # Spans are opened, and the response goes on after them.
    pattern[..., START] = np.inf if np.inf in values else 1.0
    pattern[..., EOS] = -np.inf

    def spoil(logits):
        return jnp.broadcast_to(jnp.asarray(pattern), logits.shape)

    prompts = make_prompts(6)
    rollout = sample_responses(span_loving_policy(6), prompts, rules=rules, processor=spoil)
    spans = spans_of(rollout, rules)
    real = real_tokens(rollout)
    assert np.isfinite(np.asarray(rollout.log_probs)[real]).all()
    found = [(b, g, span) for b, g in np.ndindex(NUM_PROMPTS, GROUP) for span in spans[b][g]]
    for b, g, span in found:
        tokens = np.asarray(rollout.tokens[b, g]).tolist()
        context = context_of(oracle_prompt(prompts, b), tokens[: span.start], rules, 0)
        assert span.closed
        assert matches(context, tokens[span.start : span.end], rules.barriers)
    assert len(found) > 10


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_a_step_sorts_nothing(rules):
    prompts = make_prompts(7)
    keys = row_keys(0, 0, np.arange(NUM_PROMPTS), GROUP)
    policy, limits = span_loving_policy(7), Limits(rules, NEW, stop_tokens=(EOS,))
    sampling = Sampling(0.7, top_k=5, top_p=0.9, min_p=0.1)
    state = begin(policy, prompts, keys, sampling, limits, NEW)
    of_step = jax.make_jaxpr(lambda state: step(policy, state, sampling, limits))(state)
    assert " sort[" not in str(of_step)
    # The name of the operation is right.
    assert " sort[" in str(jax.make_jaxpr(jnp.sort)(jnp.zeros(3)))


def test_a_prompts_responses_do_not_depend_on_its_batch():
    policy, prompts = span_loving_policy(3), make_prompts(3)
    together = sample_responses(policy, prompts)
    for b in range(NUM_PROMPTS):
        alone = jax.tree.map(lambda field, b=b: field[b : b + 1], prompts)
        keys = row_keys(0, 0, jnp.asarray([b]), GROUP)
        limits = Limits(RULES, NEW, stop_tokens=(EOS,))
        rollout = decode(policy, alone, keys, sampling=SAMPLING, limits=limits)
        np.testing.assert_array_equal(rollout.tokens[0], together.tokens[b])


@pytest.mark.parametrize("kind", ["toy", pytest.param("transformer", marks=pytest.mark.slow)])
def test_rows_that_stop_are_left_out_and_change_nothing_for_the_others(kind, monkeypatch):
    """The caches grow from 4 tokens to 16 and 24, and the rows become fewer, down to one."""
    policy, rules = span_loving_policy(12), RULES
    if kind == "transformer":
        policy, rules = tiny_model("llama_plain"), BOTH
        policy = policy.with_config(dataclasses.replace(policy.config, unstack_decode=True))
    prompts, rng = make_prompts(12), np.random.default_rng(12)
    # Rows stop at different steps, whatever the policy does before; one never stops.
    ends = rng.integers(2, NEW, (NUM_PROMPTS, GROUP, 1))
    prefix = np.full((NUM_PROMPTS, GROUP, NEW), SAMPLED, np.int32)
    np.put_along_axis(prefix, ends - 2, END, axis=2)
    np.put_along_axis(prefix, ends - 1, EOS, axis=2)
    prefix[1, 2] = np.where(np.arange(NEW) % 6 == 5, 3, SAMPLED)
    of_group = [Sampling(0.5 + g / 4, top_p=0.9, repetition_penalty=1.1) for g in range(GROUP)]
    options = {
        "rules": rules,
        "prefix": prefix,
        "sampling": stack_sampling([of_group] * NUM_PROMPTS),
        "stop_sequences": ((5, 5),),
    }
    expected = sample_responses(policy, prompts, **options)
    sizes, run = set(), driver.go_on

    def seen(policy, state, *arguments):
        sizes.add((state.num_rows, arguments[-1]))
        return run(policy, state, *arguments)

    monkeypatch.setattr(driver, "STRIDE", 4)
    monkeypatch.setattr(driver, "go_on", seen)
    found = sample_responses(policy, prompts, **options)
    assert {size for size, _ in sizes} >= {32, 24, 16, 8, 4, 1}
    assert {capacity for _, capacity in sizes} == {4, 16, 24}
    assert len(np.unique(expected.lengths)) > 8
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=2e-5)


def test_rows_and_steps_draw_different_tokens_and_the_seed_decides_them():
    prompts = make_prompts(4)
    flat = random_toy_policy(4, ROWS, scale=0.0)
    first = sample_responses(flat, prompts, seed=1)
    again = sample_responses(flat, prompts, seed=1)
    other = sample_responses(flat, prompts, seed=2)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, other.tokens)
    # Rows that soon draw the stop token may be equal by chance.
    longer = np.asarray(first.tokens)[np.asarray(first.lengths) > 5].tolist()
    assert len({tuple(row) for row in longer}) == len(longer) > GROUP
    assert all(len(set(row[:5])) > 1 for row in longer)


def test_a_row_ends_with_its_stop_token_and_is_padded_after_it():
    rollout = sample_responses(random_toy_policy(5, ROWS, scale=0.5), make_prompts(5))
    responses, lengths = np.asarray(rollout.tokens), np.asarray(rollout.lengths)
    stopped = 0
    for row, length in zip(responses.reshape(-1, NEW), lengths.ravel(), strict=True):
        assert EOS not in row[: length - 1]
        assert not row[length:].any()
        if length < NEW:
            assert row[length - 1] == EOS
            stopped += 1
    assert stopped > 3


def test_greedy_takes_the_best_allowed_token():
    policy, prompts = span_loving_policy(6), make_prompts(6)
    rollout = sample_responses(policy, prompts, sampling=Sampling(temperature=0.0))
    first = np.asarray(rollout.tokens)
    assert (first == first[:, :1]).all(), "greedy rows of a group must agree"
    scores = score(policy, rollout, temperature=1.0, chunk=8)
    assert_scored_as_sampled(rollout, scores)


def test_a_prompt_with_nothing_to_copy_never_opens_a_span():
    prompts = make_prompts(7)
    barren = Prompts(**{**vars(prompts), "copyable": jnp.zeros_like(prompts.copyable)})
    rollout = sample_responses(span_loving_policy(7), barren)
    assert not (np.asarray(rollout.tokens) == START).any()


def test_a_response_ends_with_a_stop_sequence_but_not_inside_a_span():
    prompts = make_prompts(8)
    sequences = ((2, 3), (4,), (1, 0, 1))
    rollout = sample_responses(
        span_loving_policy(8), prompts, sampling=Sampling(2.0), stop_sequences=sequences
    )
    spans = spans_of(rollout)
    ended = quoted = 0
    for b in range(NUM_PROMPTS):
        for g in range(GROUP):
            row = np.asarray(rollout.tokens[b, g])[: int(rollout.lengths[b, g])].tolist()
            inside = {t for s in spans[b][g] for t in range(s.start, s.end)}
            found = [
                end
                for end in range(1, len(row) + 1)
                for sequence in (*sequences, (EOS,))
                if tuple(row[max(0, end - len(sequence)) : end]) == sequence
            ]
            quoted += sum(end - 1 in inside for end in found)
            ends = [end for end in found if end - 1 not in inside]
            assert ends in ([], [len(row)]) or set(ends) == {len(row)}
            assert ends or len(row) == NEW
            ended += bool(ends) and row[-1] != EOS
    assert ended > 5 and quoted > 2


def test_copying_a_stop_token_does_not_leave_a_span_open():
    prompts = make_prompts(9)
    rules = dataclasses.replace(RULES, barriers=(START, END))
    rollout = sample_responses(span_loving_policy(9), prompts, rules=rules, stop=(2,))
    spans = [span for group in spans_of(rollout, rules) for row in group for span in row]
    assert all(span.closed and span.count for span in spans)
    copied = [
        2 in np.asarray(rollout.tokens[b, g, span.start : span.end])
        for b in range(NUM_PROMPTS)
        for g in range(GROUP)
        for span in spans_of(rollout, rules)[b][g]
    ]
    assert any(copied)


def test_a_users_processor_steers_the_choice_but_cannot_unmask():
    def wishes(logits):
        return logits.at[..., END].add(1e9).at[..., ROWS - 1].set(jnp.nan).at[..., 5].set(jnp.inf)

    prompts = make_prompts(10)
    rollout = sample_responses(
        span_loving_policy(10), prompts, sampling=Sampling(0.0), processor=wishes
    )
    responses = np.asarray(rollout.tokens)
    assert (responses[:, :, 0] == 5).all(), "END is forbidden outside a span, 5 is wished for"
    assert (responses < VOCAB).all() and not (responses == END).any()
    shifted = sample_responses(
        span_loving_policy(10),
        prompts,
        sampling=Sampling(1.0),
        processor=lambda logits: logits.at[..., START].add(1e9),
    )
    assert (np.asarray(shifted.tokens)[:, :, 0] == START).all()


def test_repetition_counts_the_prompt_and_the_response():
    flat = random_toy_policy(11, ROWS, scale=0.0)
    flat = type(flat)(
        table=flat.table.at[:ROWS].set(jnp.where(jnp.arange(ROWS) < VOCAB - 3, 1.0, -9.0)[None])
    )
    prompts = make_prompts(11)
    rollout = sample_responses(
        flat, prompts, sampling=Sampling(0.0, repetition_penalty=1e6), rules=RULES
    )
    for b in range(NUM_PROMPTS):
        row = np.asarray(rollout.tokens[b, 0]).tolist()
        of_prompt = set(np.asarray(prompts.tokens[b, : prompts.lengths[b]]).tolist())
        fresh = row[: VOCAB - 3 - len(of_prompt)]
        assert len(set(fresh)) == len(fresh) and not set(fresh) & of_prompt


def test_the_end_of_a_span_may_end_a_response():
    rollout = sample_responses(span_loving_policy(15), make_prompts(15), stop=(EOS, END))
    spans = spans_of(rollout)
    lengths = np.asarray(rollout.lengths)
    quoted = [(b, g) for b in range(NUM_PROMPTS) for g in range(GROUP) if spans[b][g]]
    assert len(quoted) > 5
    for b, g in quoted:
        (span,) = spans[b][g]
        assert span.closed and span.end == lengths[b, g] - 1


def test_logits_of_less_precision_are_sampled_in_float32():
    prompts = make_prompts(16)
    rollout = sample_responses(
        span_loving_policy(16),
        prompts,
        sampling=Sampling(0.7, top_p=0.9),
        processor=lambda logits: logits.astype(jnp.bfloat16),
    )
    assert rollout.log_probs.dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 leaves no room"),
        ({"stop_sequences": ((1,), ())}, "stop_sequences holds an empty sequence"),
        ({"stop_tokens": (999,)}, "stop token 999 is not an id of a tokenizer with 30 entries"),
        ({"stop_sequences": ((1, -4),)}, "stop token -4 is not an id"),
        ({"stop_tokens": (START,)}, "stop_tokens holds the start token 27, which opens a span"),
    ],
)
def test_impossible_limits_are_refused(changes, message):
    with pytest.raises(DecodingInputError, match=message):
        Limits(**{"rules": RULES, "max_new_tokens": 4, "stop_tokens": (EOS,), **changes})


def test_a_row_with_a_shorter_prefix_samples_after_it():
    """As if the whole batch had this prefix: padding is not emitted and does not end the row."""
    policy, prompts = span_loving_policy(17), make_prompts(17)
    long = np.random.default_rng(17).integers(0, 6, (NUM_PROMPTS, GROUP, 5)).astype(np.int32)
    # The first token of the vocabulary is given like any other.
    long[..., 1] = 0
    mixed = long.copy()
    mixed[:, ::2, 2:] = SAMPLED
    decoded = {
        name: sample_responses(policy, prompts, prefix=prefix)
        for name, prefix in (("mixed", mixed), ("short", long[..., :2]), ("long", long))
    }
    assert (decoded["mixed"].tokens[..., 1] == 0).all()
    for rows, name in ((slice(0, None, 2), "short"), (slice(1, None, 2), "long")):
        for field in ("tokens", "lengths", "log_probs"):
            of_mixed, alone = (np.asarray(getattr(decoded[n], field)) for n in ("mixed", name))
            np.testing.assert_array_equal(of_mixed[:, rows], alone[:, rows])


def test_prompts_of_different_lengths_are_padded_to_different_sizes_and_decode_alike(
    monkeypatch, request
):
    policy, prompts = tiny_model("llama_plain"), make_prompts(19)
    prompts = dataclasses.replace(prompts, lengths=jnp.array([7, 20, 3, 8], jnp.int32))
    expected = sample_responses(policy, prompts)
    waves, run = [], driver.enter_wave

    def seen(policy, state, prompts, count, size, *place):
        waves.append((count, size))
        return run(policy, state, prompts, count, size, *place)

    monkeypatch.setattr(driver, "enter_wave", seen)
    for module in (transformer, group_attention):
        monkeypatch.setattr(module, "PROMPT_BLOCK", 4)
    # No program that was compiled for other blocks serves here, nor one of these later.
    request.addfinalizer(jax.clear_caches)
    jax.clear_caches()
    found = sample_responses(policy, prompts)
    assert waves == [(1, 20), (2, 8), (1, 4)]
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=2e-5)


def test_prompts_enter_in_few_sizes_without_gaps():
    lengths = [900, 300, 290, 280, 257, 250, 249, 8]
    waves = plan_waves(lengths, (256, 512, 1024))
    assert [(wave.count, wave.size) for wave in waves] == [(1, 1024), (4, 512), (2, 256), (1, 256)]
    assert [wave.first for wave in waves] == [0, 1, 5, 7]
    assert [wave.place for wave in waves] == [0, 1024, 3072, 3584]
    # Prompts of one size are one wave, whatever their number.
    assert [(wave.count, wave.size) for wave in plan_waves([9, 8, 7], (16, 32))] == [(3, 16)]


def test_decoding_inside_a_program_takes_one_program():
    policy, prompts = span_loving_policy(18), make_prompts(18)
    keys, limits = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP), Limits(RULES, NEW, (EOS,))
    expected = decode(policy, prompts, keys, sampling=SAMPLING, limits=limits)
    at_once = jax.jit(lambda prompts: decode_at_once(policy, prompts, keys, SAMPLING, limits))
    np.testing.assert_array_equal(at_once(prompts).tokens, expected.tokens)
    with pytest.raises(DecodingInputError, match=r"inside jax\.jit call decode_at_once"):
        jax.jit(lambda prompts: decode(policy, prompts, keys, sampling=SAMPLING, limits=limits))(
            prompts
        )


def test_a_prefix_without_room_is_refused():
    prefix = jnp.zeros((NUM_PROMPTS, GROUP, NEW + 1), jnp.int32)
    with pytest.raises(DecodingInputError, match="the prefix has 25 tokens; give 1 to"):
        sample_responses(span_loving_policy(0), make_prompts(0), prefix=prefix)


def test_after_a_span_that_the_budget_cuts_short_the_mask_stops_working():
    """Under the rule of the paper's release a span may be open at the last token of a response."""
    prompts, limits = make_prompts(0), Limits(PAPER_PROMPT, NEW, stop_tokens=(EOS,))
    keys = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP)
    policy = span_loving_policy(0)
    advance = jax.jit(lambda state: step(policy, state, SAMPLING, limits))
    state = begin(policy, prompts, keys, SAMPLING, limits, NEW)
    state = enter_wave(policy, state, prompts, NUM_PROMPTS, SIZE, 0, 0)
    open_before_the_last = None
    for _ in range(NEW):
        open_before_the_last = state.span.inside & ~state.done
        state = advance(state)
    last = state.tokens[:, :, NEW - 1]
    assert (open_before_the_last & ~jnp.isin(last, jnp.array([END, EOS]))).any()
    assert not state.span.inside.any()
