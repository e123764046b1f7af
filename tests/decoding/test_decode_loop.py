"""The decode loop: what it samples, and that the trainer scores it alike."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.decode_loop import SAMPLED, Limits, decode, start, step
from decoding.errors import DecodingInputError
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules, mask_logits, trace, whole_source
from decoding.span_scores import FEW, log_probs
from decoding.spans import find_spans
from decoding.suffix_sort import BARRIER
from decoding.token_bits import unpack
from tests.oracles.span_oracle import OraclePrompt, context_of, matches
from tests.oracles.toy_policy import random_toy_policy

VOCAB, ROWS = 30, 32
START, END, EOS = 27, 28, 29
RULES = SpanRules(
    start_token=START, end_token=END, vocab_size=VOCAB, barriers=(START, END, EOS), max_length=6
)
EDGES = bytes([1, 1, 1, 1, 0, 1] + [1] * (VOCAB - 6))
BOTH = dataclasses.replace(RULES, copy_source="prompt+response", edges=EDGES)
PAPER = dataclasses.replace(BOTH, paper_compatible=True)
PAPER_PROMPT = dataclasses.replace(RULES, paper_compatible=True)
NUM_PROMPTS, GROUP, SIZE, NEW = 4, 8, 20, 24
SAMPLING = Sampling(temperature=0.7)


def make_prompts(seed, num_prompts=NUM_PROMPTS):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, SIZE + 1, num_prompts)
    flags = rng.random((3, num_prompts, SIZE)) < 0.8
    return Prompts(
        tokens=jnp.asarray(rng.integers(0, 6, (num_prompts, SIZE)), jnp.int32),
        lengths=jnp.asarray(lengths, jnp.int32),
        copyable=jnp.asarray(flags[0]),
        span_start=jnp.asarray(flags[1]),
        span_end=jnp.asarray(flags[2]),
    )


def sample_responses(policy, prompts, seed=0, sampling=SAMPLING, rules=RULES, **options):
    keys = row_keys(seed, 0, jnp.arange(prompts.tokens.shape[0]), GROUP)
    return decode(
        policy,
        prompts,
        keys,
        sampling=sampling,
        limits=Limits(rules, NEW, stop_tokens=(EOS,), **options),
    )


def span_loving_policy(seed):
    policy = random_toy_policy(seed, ROWS)
    return type(policy)(table=policy.table.at[:, START].add(2.0))


def oracle_prompt(prompts, b):
    size = int(prompts.lengths[b])
    fields = (prompts.tokens, prompts.copyable, prompts.span_start, prompts.span_end)
    return OraclePrompt(*(np.asarray(field[b, :size]).tolist() for field in fields))


def traced(prompts, decoded, index, rules=RULES):
    source = whole_source(prompts, index, decoded.responses, rules)
    return source, trace(decoded.responses, source, rules, NEW)


def spans_of(prompts, decoded, index, rules=RULES):
    source, states = traced(prompts, decoded, index, rules)
    return find_spans(decoded.responses, decoded.lengths, states, source, rules, max_occurrences=99)


def score(policy, prompts, decoded, index, temperature, chunk, rules=RULES):
    source, states = traced(prompts, decoded, index, rules)
    hidden = policy.score(prompts.tokens, prompts.lengths, decoded.responses)
    return log_probs(
        policy,
        hidden,
        decoded.responses,
        decoded.lengths,
        states,
        source,
        rules,
        temperature=temperature,
        chunk=chunk,
    )


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
@pytest.mark.parametrize("seed", range(2))
def test_every_closed_span_is_a_verbatim_copy_with_all_its_places(seed, rules):
    prompts = make_prompts(seed)
    decoded, index = sample_responses(span_loving_policy(seed), prompts, seed, rules=rules)
    spans = spans_of(prompts, decoded, index, rules)
    checked = repeated = 0
    for b in range(NUM_PROMPTS):
        prompt = oracle_prompt(prompts, b)
        for g in range(GROUP):
            tokens = np.asarray(decoded.responses[b, g]).tolist()
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
    ("chunk", "rules"),
    [(1, RULES), (NEW, RULES), (7, BOTH), (NEW, PAPER), (7, PAPER_PROMPT)],
    ids=["1, prompt", "all, prompt", "7, prompt+response", "all, paper", "7, paper of the prompt"],
)
def test_trainer_log_probs_equal_the_samplers(chunk, rules):
    policy, prompts = span_loving_policy(1), make_prompts(1)
    decoded, index = sample_responses(
        policy, prompts, sampling=Sampling(temperature=0.7), rules=rules
    )
    scores = score(policy, prompts, decoded, index, temperature=0.7, chunk=chunk, rules=rules)
    real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
    np.testing.assert_allclose(
        np.asarray(scores.log_probs)[real], np.asarray(decoded.log_probs)[real], atol=1e-5
    )
    # The responses hold forced tokens as well as free choices.
    assert (np.asarray(decoded.log_probs)[real] == 0).any() or rules.paper_compatible
    assert (np.asarray(decoded.log_probs)[real] < -1).any()


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_thousands_of_sampled_tokens_score_as_they_were_sampled(rules):
    checked = 0
    for seed in range(20, 26):
        policy, prompts = span_loving_policy(seed), make_prompts(seed)
        decoded, index = sample_responses(policy, prompts, seed, rules=rules)
        scores = score(policy, prompts, decoded, index, temperature=0.7, chunk=8, rules=rules)
        real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
        np.testing.assert_allclose(
            np.asarray(scores.log_probs)[real], np.asarray(decoded.log_probs)[real], atol=1e-5
        )
        checked += real.sum()
    assert checked > 2000


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_tokens_of_large_logits_score_as_they_were_sampled(rules):
    policy, prompts = span_loving_policy(3), make_prompts(3)
    # The logits are rows of the table, whichever product they come from: rounding is in the scores.
    policy = type(policy)(table=policy.table.at[:ROWS].add(300.0).at[ROWS:].set(0.0))
    decoded, index = sample_responses(policy, prompts, rules=rules)
    scores = score(policy, prompts, decoded, index, temperature=0.7, chunk=7, rules=rules)
    real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
    np.testing.assert_allclose(
        np.asarray(scores.log_probs)[real], np.asarray(decoded.log_probs)[real], atol=1e-5
    )


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
    pattern = np.resize(np.asarray(values, np.float32), (1, GROUP, ROWS))
    # Spans are opened, and the response goes on behind them.
    pattern[..., START] = np.inf if np.inf in values else 1.0
    pattern[..., EOS] = -np.inf

    def spoil(logits):
        return jnp.broadcast_to(jnp.asarray(pattern), logits.shape)

    prompts = make_prompts(6)
    decoded, index = sample_responses(span_loving_policy(6), prompts, rules=rules, processor=spoil)
    spans = spans_of(prompts, decoded, index, rules)
    real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
    assert np.isfinite(np.asarray(decoded.log_probs)[real]).all()
    found = [(b, g, span) for b, g in np.ndindex(NUM_PROMPTS, GROUP) for span in spans[b][g]]
    for b, g, span in found:
        tokens = np.asarray(decoded.responses[b, g]).tolist()
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
    groups = jax.jit(start, static_argnames="limits")(policy, prompts, keys, sampling, limits)
    of_step = jax.make_jaxpr(lambda groups: step(policy, groups, sampling, limits))(groups)
    assert " sort[" not in str(of_step)
    # What is looked for is called so.
    assert " sort[" in str(jax.make_jaxpr(jnp.sort)(jnp.zeros(3)))


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_log_prob_gradients_equal_those_of_a_dense_masked_softmax(rules):
    policy, prompts = span_loving_policy(2), make_prompts(2)
    decoded, index = sample_responses(policy, prompts, rules=rules)
    source, states = traced(prompts, decoded, index, rules)
    real = jnp.arange(NEW)[None, None] < decoded.lengths[..., None]

    def allowed_at(t):
        state = jax.tree.map(lambda field: field[:, :, t], states)
        flat = jnp.zeros((NUM_PROMPTS, GROUP, ROWS))
        return jnp.isfinite(mask_logits(flat, state, source, rules))

    allowed = jnp.stack([allowed_at(t) for t in range(NEW)], axis=2)
    allowed = allowed.reshape(NUM_PROMPTS, -1, ROWS)

    def chunked(policy):
        scores = score(policy, prompts, decoded, index, 0.7, 5, rules)
        return jnp.where(real, scores.log_probs, 0).sum(), scores

    def dense(policy):
        hidden = policy.score(prompts.tokens, prompts.lengths, decoded.responses)
        logits = policy.unembed(hidden).reshape(NUM_PROMPTS, -1, ROWS)
        scores = jax.nn.log_softmax(logits / 0.7, axis=-1, where=allowed)
        tokens = decoded.responses.reshape(NUM_PROMPTS, -1, 1)
        chosen = jnp.take_along_axis(scores, tokens, axis=-1)[..., 0]
        entropy = -jnp.where(allowed, jnp.exp(scores) * scores, 0).sum(-1)
        entropy = jnp.where(real.reshape(entropy.shape), entropy, 0)
        return jnp.where(real.reshape(chosen.shape), chosen, 0).sum(), entropy

    (value, scores), grad = jax.value_and_grad(chunked, has_aux=True)(policy)
    (expected, entropy), expected_grad = jax.value_and_grad(dense, has_aux=True)(policy)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad.table, expected_grad.table, atol=1e-4)
    np.testing.assert_allclose(scores.entropy.reshape(entropy.shape), entropy, atol=1e-4)


def test_a_forbidden_token_has_log_probability_minus_infinity_and_nothing_follows_the_end():
    policy, prompts = span_loving_policy(12), make_prompts(12)
    decoded, index = sample_responses(policy, prompts)
    # END outside a span, then a span of a token that the prompt does not have.
    wrong = decoded.responses.at[:, :, 0].set(END).at[:, :, 1].set(START).at[:, :, 2].set(20)
    changed = dataclasses.replace(decoded, responses=wrong, lengths=jnp.full((4, GROUP), 4))
    scores = np.asarray(score(policy, prompts, changed, index, 1.0, 5).log_probs)
    assert np.isneginf(scores[:, :, [0, 2]]).all()
    assert np.isfinite(scores[:, :, 1]).all()
    assert (scores[:, :, 4:] == 0).all()


def test_numbers_that_are_none_are_not_hidden_from_training():
    policy, prompts = span_loving_policy(13), make_prompts(13)
    decoded, index = sample_responses(policy, prompts)
    broken = type(policy)(table=policy.table * jnp.nan)
    scores = score(broken, prompts, decoded, index, 1.0, 5)
    real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
    assert np.isnan(np.asarray(scores.log_probs)[real]).all()


@pytest.mark.parametrize("rules", [RULES, BOTH], ids=["prompt", "prompt+response"])
def test_positions_that_few_tokens_can_follow_are_spared_the_vocabulary(rules):
    policy, prompts = span_loving_policy(14), make_prompts(14)
    decoded, index = sample_responses(policy, prompts, rules=rules)
    seen = []

    class Counting(type(policy)):
        def unembed(self, hidden):
            jax.debug.callback(lambda: seen.append(hidden.shape[0] * hidden.shape[1]))
            return super().unembed(hidden)

    counting = jax.tree_util.register_dataclass(Counting, ["table"], [])(policy.table)
    score(counting, prompts, decoded, index, 1.0, 1, rules)
    jax.effects_barrier()
    source, states = traced(prompts, decoded, index, rules)
    real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
    most = np.asarray(states.locus.last - states.locus.first + 2)
    if rules is BOTH:
        going = np.asarray(unpack(states.matches.places, source.text.tokens.shape[-1]))
        most = most + (going & (np.asarray(source.text.tokens) != BARRIER)[:, :, None]).sum(-1)
    few = np.asarray(states.inside) & (most <= FEW)
    needed = (real & ~few).sum(axis=(1, 2)).max()
    chunks = -(-needed // GROUP)
    assert sum(seen) == chunks * GROUP * NUM_PROMPTS < NEW * GROUP * NUM_PROMPTS
    assert (real & few).any()


def test_a_prompts_responses_do_not_depend_on_its_batch():
    policy, prompts = span_loving_policy(3), make_prompts(3)
    together, _ = sample_responses(policy, prompts)
    for b in range(NUM_PROMPTS):
        alone = jax.tree.map(lambda field, b=b: field[b : b + 1], prompts)
        keys = row_keys(0, 0, jnp.asarray([b]), GROUP)
        decoded, _ = decode(
            policy,
            alone,
            keys,
            sampling=Sampling(temperature=0.7),
            limits=Limits(RULES, NEW, stop_tokens=(EOS,)),
        )
        np.testing.assert_array_equal(decoded.responses[0], together.responses[b])


def test_rows_and_steps_draw_different_tokens_and_the_seed_decides_them():
    prompts = make_prompts(4)
    flat = random_toy_policy(4, ROWS, scale=0.0)
    first, _ = sample_responses(flat, prompts, seed=1)
    again, _ = sample_responses(flat, prompts, seed=1)
    other, _ = sample_responses(flat, prompts, seed=2)
    np.testing.assert_array_equal(first.responses, again.responses)
    assert not np.array_equal(first.responses, other.responses)
    # Rows that soon draw the stop token may well be the same.
    longer = np.asarray(first.responses)[np.asarray(first.lengths) > 5].tolist()
    assert len({tuple(row) for row in longer}) == len(longer) > GROUP
    assert all(len(set(row[:5])) > 1 for row in longer)


def test_a_row_ends_with_its_stop_token_and_is_padded_after_it():
    decoded, _ = sample_responses(random_toy_policy(5, ROWS, scale=0.5), make_prompts(5))
    responses, lengths = np.asarray(decoded.responses), np.asarray(decoded.lengths)
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
    decoded, index = sample_responses(policy, prompts, sampling=Sampling(temperature=0.0))
    first = np.asarray(decoded.responses)
    assert (first == first[:, :1]).all(), "greedy rows of a group must agree"
    scores = score(policy, prompts, decoded, index, temperature=1.0, chunk=8)
    real = np.arange(NEW) < np.asarray(decoded.lengths)[..., None]
    np.testing.assert_allclose(
        np.asarray(scores.log_probs)[real], np.asarray(decoded.log_probs)[real], atol=1e-5
    )


def test_a_prompt_with_nothing_to_copy_never_opens_a_span():
    prompts = make_prompts(7)
    barren = Prompts(**{**vars(prompts), "copyable": jnp.zeros_like(prompts.copyable)})
    decoded, _ = sample_responses(span_loving_policy(7), barren)
    assert not (np.asarray(decoded.responses) == START).any()


def test_a_response_ends_with_a_stop_sequence_but_not_inside_a_span():
    prompts = make_prompts(8)
    sequences = ((2, 3), (4,), (1, 0, 1))
    decoded, index = sample_responses(
        span_loving_policy(8), prompts, sampling=Sampling(2.0), stop_sequences=sequences
    )
    spans = spans_of(prompts, decoded, index)
    ended = quoted = 0
    for b in range(NUM_PROMPTS):
        for g in range(GROUP):
            row = np.asarray(decoded.responses[b, g])[: int(decoded.lengths[b, g])].tolist()
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


def test_a_stop_token_that_may_be_copied_does_not_leave_a_span_open():
    prompts = make_prompts(9)
    rules = dataclasses.replace(RULES, barriers=(START, END))
    keys = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP)
    decoded, index = decode(
        span_loving_policy(9),
        prompts,
        keys,
        sampling=SAMPLING,
        limits=Limits(rules, NEW, stop_tokens=(2,)),
    )
    spans = [
        span for group in spans_of(prompts, decoded, index, rules) for row in group for span in row
    ]
    assert all(span.closed and span.count for span in spans)
    copied = [
        2 in np.asarray(decoded.responses[b, g, span.start : span.end])
        for b in range(NUM_PROMPTS)
        for g in range(GROUP)
        for span in spans_of(prompts, decoded, index, rules)[b][g]
    ]
    assert any(copied)


def test_a_users_processor_steers_the_choice_but_cannot_unmask():
    def wishes(logits):
        return logits.at[..., END].add(1e9).at[..., ROWS - 1].set(jnp.nan).at[..., 5].set(jnp.inf)

    prompts = make_prompts(10)
    decoded, _ = sample_responses(
        span_loving_policy(10), prompts, sampling=Sampling(0.0), processor=wishes
    )
    responses = np.asarray(decoded.responses)
    assert (responses[:, :, 0] == 5).all(), "END is forbidden outside a span, 5 is wished for"
    assert (responses < VOCAB).all() and not (responses == END).any()
    shifted, _ = sample_responses(
        span_loving_policy(10),
        prompts,
        sampling=Sampling(1.0),
        processor=lambda logits: logits.at[..., START].add(1e9),
    )
    assert (np.asarray(shifted.responses)[:, :, 0] == START).all()


def test_repetition_counts_the_prompt_and_the_response():
    flat = random_toy_policy(11, ROWS, scale=0.0)
    flat = type(flat)(
        table=flat.table.at[:ROWS].set(jnp.where(jnp.arange(ROWS) < VOCAB - 3, 1.0, -9.0)[None])
    )
    prompts = make_prompts(11)
    decoded, _ = sample_responses(
        flat, prompts, sampling=Sampling(0.0, repetition_penalty=1e6), rules=RULES
    )
    for b in range(NUM_PROMPTS):
        row = np.asarray(decoded.responses[b, 0]).tolist()
        of_prompt = set(np.asarray(prompts.tokens[b, : prompts.lengths[b]]).tolist())
        fresh = row[: VOCAB - 3 - len(of_prompt)]
        assert len(set(fresh)) == len(fresh) and not set(fresh) & of_prompt


def test_the_end_of_a_span_may_end_a_response():
    prompts = make_prompts(15)
    keys = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP)
    limits = Limits(RULES, NEW, stop_tokens=(EOS, END))
    decoded, index = decode(span_loving_policy(15), prompts, keys, sampling=SAMPLING, limits=limits)
    spans = spans_of(prompts, decoded, index)
    lengths = np.asarray(decoded.lengths)
    quoted = [(b, g) for b in range(NUM_PROMPTS) for g in range(GROUP) if spans[b][g]]
    assert len(quoted) > 5
    for b, g in quoted:
        (span,) = spans[b][g]
        assert span.closed and span.end == lengths[b, g] - 1


def test_logits_of_less_precision_are_sampled_in_float32():
    prompts = make_prompts(16)
    decoded, _ = sample_responses(
        span_loving_policy(16),
        prompts,
        sampling=Sampling(0.7, top_p=0.9),
        processor=lambda logits: logits.astype(jnp.bfloat16),
    )
    assert decoded.log_probs.dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 leaves no room"),
        ({"stop_sequences": ((1,), ())}, "stop_sequences holds an empty sequence"),
        ({"stop_tokens": (999,)}, "stop token 999 is no id of a tokenizer with 30 entries"),
        ({"stop_sequences": ((1, -4),)}, "stop token -4 is no id"),
        ({"stop_tokens": (START,)}, "stop_tokens holds the start token 27, which opens a span"),
    ],
)
def test_limits_that_cannot_hold_are_refused(changes, message):
    with pytest.raises(DecodingInputError, match=message):
        Limits(**{"rules": RULES, "max_new_tokens": 4, "stop_tokens": (EOS,), **changes})


def test_a_row_with_a_shorter_prefix_samples_behind_it():
    """As if the whole batch had had that prefix: padding is neither emitted nor ends the row."""
    policy, prompts = span_loving_policy(17), make_prompts(17)
    keys = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP)
    limits = Limits(RULES, NEW, stop_tokens=(EOS,))
    long = np.random.default_rng(17).integers(0, 6, (NUM_PROMPTS, GROUP, 5)).astype(np.int32)
    # The first token of the vocabulary is given like any other.
    long[..., 1] = 0
    mixed = long.copy()
    mixed[:, ::2, 2:] = SAMPLED
    decoded = {
        name: decode(policy, prompts, keys, sampling=SAMPLING, limits=limits, prefix=prefix)[0]
        for name, prefix in (("mixed", mixed), ("short", long[..., :2]), ("long", long))
    }
    assert (decoded["mixed"].responses[..., 1] == 0).all()
    for rows, name in ((slice(0, None, 2), "short"), (slice(1, None, 2), "long")):
        for field in dataclasses.fields(decoded[name]):
            of_mixed, alone = (np.asarray(getattr(decoded[n], field.name)) for n in ("mixed", name))
            np.testing.assert_array_equal(of_mixed[:, rows], alone[:, rows])


def test_a_prefix_without_room_is_refused():
    prefix = jnp.zeros((NUM_PROMPTS, GROUP, NEW + 1), jnp.int32)
    keys = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP)
    with pytest.raises(DecodingInputError, match="the prefix has 25 tokens; give 1 to"):
        decode(
            span_loving_policy(0),
            make_prompts(0),
            keys,
            sampling=SAMPLING,
            limits=Limits(RULES, NEW, stop_tokens=(EOS,)),
            prefix=prefix,
        )
