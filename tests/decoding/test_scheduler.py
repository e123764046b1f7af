"""Groups come and go without changing each other's responses."""

import dataclasses

import numpy as np
import pytest

from decoding import scheduler
from decoding.decode_loop import SAMPLED, Limits
from decoding.driver import decode
from decoding.errors import DecodingInputError
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from decoding.scheduler import Request, decode_all
from decoding.span_copy import SpanRules
from tests.oracles.tiny_models import tiny_model
from tests.oracles.toy_policy import random_toy_policy

VOCAB, ROWS = 30, 32
START, END, EOS = 27, 28, 29
RULES = SpanRules(START, END, VOCAB, barriers=(EOS,), max_length=6)
LIMITS = Limits(
    RULES,
    24,
    stop_tokens=(EOS,),
    # Groups stop soon, and at different steps.
    processor=lambda logits: logits.at[..., EOS].add(2.5),
)
SAMPLING = Sampling(0.9)
GROUP = 3
BUCKETS = (8, 16)


def make_requests(count, seed=0):
    rng = np.random.default_rng(seed)
    keys = row_keys(seed, 0, np.arange(count), GROUP)
    requests = []
    for number in range(count):
        size = int(rng.integers(1, BUCKETS[-1] + 1))
        flags = rng.random((3, size)) < 0.8
        requests.append(Request(rng.integers(0, 6, size), *flags, keys=keys[number]))
    return requests


def span_loving_policy(seed=0):
    policy = random_toy_policy(seed, ROWS, scale=1.0)
    return type(policy)(table=policy.table.at[:, START].add(1.0))


def alone(policy, request, size=None):
    """Return `decode`'s responses to a request by itself, padded to `size` tokens."""
    size = size or min(bucket for bucket in BUCKETS if bucket >= len(request.tokens))
    fields = (request.tokens, request.copyable, request.span_start, request.span_end)
    tokens, *flags = (np.pad(field, (0, size - len(field)))[None] for field in fields)
    prompts = Prompts(tokens.astype(np.int32), np.array([len(request.tokens)], np.int32), *flags)
    prefix = None
    if request.prefix is not None:
        prefix = np.broadcast_to(request.prefix, (1, GROUP, len(request.prefix)))
    return decode(
        policy,
        prompts,
        request.keys[None],
        sampling=request.sampling or SAMPLING,
        limits=LIMITS,
        prefix=prefix,
    )


def assert_same(got, expected):
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    np.testing.assert_allclose(got.log_probs, expected.log_probs, atol=1e-6)


def run(policy, requests, num_slots, *, buckets=BUCKETS, **options):
    found = decode_all(
        policy,
        requests,
        buckets=buckets,
        num_slots=num_slots,
        sampling=SAMPLING,
        limits=LIMITS,
        **options,
    )
    return {one.number: one for one in found}


def transformer():
    """A model with attention and a cache."""
    return tiny_model("llama_plain")


def unstacked_transformer():
    policy = transformer()
    return policy.with_config(dataclasses.replace(policy.config, unstack_decode=True))


@pytest.mark.parametrize(
    ("make_policy", "num_slots", "buckets"),
    [
        (span_loving_policy, 1, BUCKETS),
        (span_loving_policy, 4, BUCKETS),
        (transformer, 4, BUCKETS),
        (unstacked_transformer, 2, BUCKETS[1:]),
    ],
)
def test_every_request_gets_the_responses_it_gets_alone(make_policy, num_slots, buckets):
    policy, requests = make_policy(), make_requests(11)
    found = run(policy, requests, num_slots, buckets=buckets)
    assert sorted(found) == list(range(11))
    lengths = set()
    for number, request in enumerate(requests):
        size = min(bucket for bucket in buckets if bucket >= len(request.tokens))
        expected = alone(policy, request, size)
        got = found[number].rollout
        assert_same(got, expected)
        lengths.add(int(np.asarray(got.lengths).max()))
    assert len(lengths) > 3, "groups of one length would all leave together"


def test_a_request_gets_the_same_in_a_longer_bucket():
    policy, requests = span_loving_policy(), make_requests(6)
    found = run(policy, requests, 2, buckets=(20,))
    for number, request in enumerate(requests):
        assert_same(found[number].rollout, alone(policy, request))


def test_requests_keep_their_own_settings_beside_others():
    own = (
        None,
        Sampling(0.0),
        Sampling(0.7, top_k=3),
        Sampling(1.3, top_p=0.6, repetition_penalty=1.5),
    )
    requests = [
        dataclasses.replace(request, sampling=own[number % len(own)])
        for number, request in enumerate(make_requests(9, seed=2))
    ]
    policy = span_loving_policy()
    found = run(policy, requests, 3, buckets=(16,))
    for number, request in enumerate(requests):
        assert_same(found[number].rollout, alone(policy, request, 16))


def test_requests_begin_with_their_own_prefixes_beside_others():
    own = (None, np.array([1]), np.array([3, START, 4]), np.array([SAMPLED, 2]))
    requests = [
        dataclasses.replace(request, prefix=own[number % len(own)])
        for number, request in enumerate(make_requests(9, seed=3))
    ]
    policy = span_loving_policy()
    found = run(policy, requests, 3, max_prefix=4, buckets=(16,))
    for number, request in enumerate(requests):
        got = found[number].rollout
        assert_same(got, alone(policy, request, 16))
        # Before its first given token a response is the same as without a prefix.
        free = alone(policy, dataclasses.replace(request, prefix=None), 16).tokens
        for place, token in enumerate([] if request.prefix is None else request.prefix):
            expected = free[0, :, place] if token == SAMPLED else token
            np.testing.assert_array_equal(got.tokens[0, :, place], expected)


def test_settings_and_prefixes_compile_no_more_programs():
    policy, requests, said = span_loving_policy(), make_requests(8, seed=4), []
    for settings in ([Sampling(0.5), Sampling(0.8)], [Sampling(0.0), Sampling(1.1)]):
        mixed = [
            dataclasses.replace(
                request, sampling=settings[number % 2], prefix=np.arange(1, 1 + number % 3)
            )
            for number, request in enumerate(requests)
        ]
        run(policy, mixed, 2, max_prefix=3, log=said.append, buckets=(16,))
    assert said[1] == "bucket of 16 tokens: 0 programs compiled"


def test_each_bucket_compiles_four_programs_however_many_requests_there_are():
    for program in scheduler._PROGRAMS:
        program.clear_cache()
    said = []
    requests = make_requests(17, seed=1)
    run(span_loving_policy(1), requests, 3, log=said.append)
    run(span_loving_policy(2), requests[::-1], 3, log=said.append)
    assert said == [
        "bucket of 8 tokens: 4 programs compiled",
        "bucket of 16 tokens: 4 programs compiled",
        "bucket of 8 tokens: 0 programs compiled",
        "bucket of 16 tokens: 0 programs compiled",
    ]


def test_impossible_requests_are_refused():
    policy = span_loving_policy()

    def request(size=4, group_size=GROUP, prefix=None, token=0):
        keys = row_keys(0, 0, np.arange(1), group_size)[0]
        return Request(np.full(size, token), *np.ones((3, size), bool), keys=keys, prefix=prefix)

    unequal = request()
    # Types are checked when the request is made, but only in tests.
    object.__setattr__(unequal, "copyable", np.ones(3, bool))

    refused = {
        "prompt 0 has 17 tokens; .* those of the longest bucket, 16": [request(size=17)],
        "prompt 0 has 0 tokens; give at least 1": [request(size=0)],
        "copyable of prompt 0 has 3 entries for 4 tokens; give one a": [unequal],
        "prompt 0 has 0 keys, .* and at least one": [request(group_size=0)],
        "prompt 0 holds token 500, not an id of a tokenizer with": [request(token=500)],
        "prompt 0 holds token -1, not an id": [request(token=-1)],
        "prefix of prompt 0 holds token 500, not an id": [request(prefix=np.full(2, 500))],
        "prompt 1 has 2 keys, the first prompt 3; give all": [request(), request(group_size=2)],
        "prefix of prompt 0 has 5 tokens, max_prefix is 4": [request(prefix=np.zeros(5, int))],
    }
    for message, requests in refused.items():
        with pytest.raises(DecodingInputError, match=message):
            run(policy, requests, 1, max_prefix=4)


def test_impossible_buckets_and_prefixes_are_refused():
    policy = span_loving_policy()
    with pytest.raises(DecodingInputError, match=r"buckets \(16, 8\) must ascend"):
        run(policy, [], 1, buckets=(16, 8))
    with pytest.raises(DecodingInputError, match=r"max_prefix 25 must lie between 0 and .* 24;"):
        run(policy, [], 1, max_prefix=25)
