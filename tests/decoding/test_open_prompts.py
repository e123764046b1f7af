"""Open prompts: what is read once and continued many times is answered as if it were read anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoding.decode_loop import SAMPLED, Limits
from decoding.driver import decode
from decoding.errors import DecodingInputError
from decoding.open_prompts import extended, go_on_from, open_prompts
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from tests.oracles.tiny_models import tiny_model
from tests.oracles.toy_decoding import (
    EOS,
    GROUP,
    NUM_PROMPTS,
    RULES,
    SAMPLING,
    make_prompts,
    span_loving_policy,
)

LONG = Limits(RULES, 200, stop_tokens=(EOS,))
PREFIX = np.full((NUM_PROMPTS, GROUP, 3), SAMPLED, np.int32)
PREFIX[:, 0] = 1, 2, 3
PREFIX[:, 1, :1] = 4


def same_rollouts(one, other):
    for field in ("tokens", "lengths", "log_probs"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


@pytest.mark.parametrize("every", [0, 7])
def test_many_continuations_of_open_prompts_are_those_of_prompts_read_anew(every):
    policy, prompts = span_loving_policy(0), make_prompts(0)
    opened = open_prompts(policy, prompts)
    for seed in range(2):
        keys = row_keys(seed, 0, jnp.arange(NUM_PROMPTS), GROUP)
        options = {"sampling": SAMPLING, "limits": LONG, "prefix": PREFIX}
        *_, rollout = go_on_from(policy, opened, keys, every=every, **options)
        same_rollouts(rollout, decode(policy, prompts, keys, **options))


def test_rollouts_on_the_way_grow_to_the_last_one():
    policy, prompts = span_loving_policy(1), make_prompts(1)
    keys = row_keys(1, 0, jnp.arange(NUM_PROMPTS), GROUP)
    options = {"sampling": SAMPLING, "limits": LONG}
    whole = decode(policy, prompts, keys, **options)
    opened, seen = open_prompts(policy, prompts), []
    for rollout in go_on_from(policy, opened, keys, every=8, **options):
        # The next part frees its buffers.
        seen.append(jax.tree.map(np.array, (rollout.tokens, rollout.lengths)))
    tokens, ends = np.asarray(whole.tokens), np.asarray(whole.lengths)
    assert len(seen) >= ends.max() / 8
    for part, lengths in seen:
        real = np.arange(tokens.shape[-1]) < lengths[..., None]
        np.testing.assert_array_equal(part[real], tokens[real])
    steps = np.diff([0] + [lengths.max() for _, lengths in seen])
    assert steps.max() <= 8 and steps.min() >= 0
    np.testing.assert_array_equal(seen[-1][1], ends)


def test_a_question_as_a_prefix_is_answered_like_one_in_the_prompt():
    """The oracle reads document and question together; the open prompt has the document alone."""
    model = tiny_model("qwen2_plain")
    rng = np.random.default_rng(3)
    document, question = rng.integers(3, 90, 40), rng.integers(3, 90, 9)
    rules = dataclasses.replace(RULES, vocab_size=model.vocab_rows)

    def prompts_of(tokens):
        copyable = np.arange(len(tokens)) < len(document)
        flags = dict.fromkeys(("copyable", "span_start", "span_end"), copyable[None])
        return Prompts(tokens[None].astype(np.int32), np.array([len(tokens)], np.int32), **flags)

    keys = row_keys(0, 0, np.zeros(1, np.uint32), 1)
    greedy = Sampling(temperature=0.0)
    whole = decode(
        model,
        prompts_of(np.concatenate([document, question])),
        keys,
        sampling=greedy,
        limits=Limits(rules, 20, ()),
    )
    opened = open_prompts(model, prompts_of(document))
    *_, rollout = go_on_from(
        model,
        opened,
        keys,
        sampling=greedy,
        limits=Limits(rules, 20 + len(question), ()),
        prefix=question[None, None],
    )
    asked = np.asarray(rollout.tokens)[0, 0]
    np.testing.assert_array_equal(asked[: len(question)], question)
    np.testing.assert_array_equal(asked[len(question) :], np.asarray(whole.tokens)[0, 0])


def test_a_prefix_longer_than_a_response_is_refused():
    policy, prompts = span_loving_policy(0), make_prompts(0)
    keys = row_keys(0, 0, jnp.arange(NUM_PROMPTS), GROUP)
    opened, limits = open_prompts(policy, prompts), Limits(RULES, 2, (EOS,))
    with pytest.raises(DecodingInputError, match="prefix has 3 tokens; give 1 to max_new_tokens"):
        next(go_on_from(policy, opened, keys, sampling=SAMPLING, limits=limits, prefix=PREFIX))


def test_a_stop_token_in_a_prefix_ends_the_response_only_if_nothing_follows():
    policy, prompts = span_loving_policy(2), make_prompts(2)
    keys = row_keys(2, 0, jnp.arange(NUM_PROMPTS), GROUP)
    prefix = np.full((NUM_PROMPTS, GROUP, 4), SAMPLED, np.int32)
    prefix[:, 0] = 1, EOS, 2, 3
    prefix[:, 1, :2] = 1, EOS
    rollout = decode(policy, prompts, keys, sampling=SAMPLING, limits=LONG, prefix=prefix)
    tokens, lengths = np.asarray(rollout.tokens), np.asarray(rollout.lengths)
    assert (tokens[:, 0, :4] == [1, EOS, 2, 3]).all() and (lengths[:, 0] > 4).all()
    assert (tokens[:, 1, :2] == [1, EOS]).all() and (lengths[:, 1] == 2).all()


@pytest.mark.parametrize("name", ["qwen2_plain", "llama_yarn"])
def test_extended_prompts_are_continued_like_whole_ones(name):
    """Of two prompts one gets more tokens than the other; the open ones stay as they were."""
    model = tiny_model(name)
    rng = np.random.default_rng(5)
    rules = dataclasses.replace(RULES, vocab_size=model.vocab_rows)
    before, counts = np.array([9, 14], np.int32), np.array([7, 3], np.int32)
    whole = rng.integers(3, 30, (2, 40)).astype(np.int32)
    copyable = np.arange(40) < before[:, None]

    def prompts_of(lengths):
        tokens = np.where(np.arange(40) < lengths[:, None], whole, 0).astype(np.int32)
        flags = dict.fromkeys(("copyable", "span_start", "span_end"), copyable)
        return Prompts(tokens, lengths, **flags)

    more = np.stack([whole[row, size : size + 8] for row, size in enumerate(before)])
    opened = open_prompts(model, prompts_of(before))
    options = {"sampling": Sampling(temperature=0.7), "limits": Limits(rules, 12, ())}
    keys = row_keys(0, 0, np.arange(2, dtype=np.uint32), 2)
    for _ in range(2):
        longer = extended(model, opened, more, counts)
        *_, rollout = go_on_from(model, longer, keys, **options)
        expected = decode(model, prompts_of(before + counts), keys, **options)
        np.testing.assert_array_equal(rollout.tokens, expected.tokens)
        np.testing.assert_allclose(rollout.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_array_equal(longer.prompts.tokens, prompts_of(before + counts).tokens)
    *_, rollout = go_on_from(model, opened, keys, **options)
    np.testing.assert_array_equal(
        rollout.tokens, decode(model, prompts_of(before), keys, **options).tokens
    )
