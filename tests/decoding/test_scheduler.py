"""Groups come and go; what each of them says does not depend on it."""

import dataclasses

import numpy as np
import pytest

from decoding import scheduler
from decoding.decode_loop import Limits, decode
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


def alone(policy, request):
    size = min(bucket for bucket in BUCKETS if bucket >= len(request.tokens))
    fields = (request.tokens, request.copyable, request.span_start, request.span_end)
    tokens, *flags = (np.pad(field, (0, size - len(field)))[None] for field in fields)
    prompts = Prompts(tokens.astype(np.int32), np.array([len(request.tokens)], np.int32), *flags)
    return decode(policy, prompts, request.keys[None], sampling=SAMPLING, limits=LIMITS)[0]


def run(policy, requests, num_slots, **options):
    found = decode_all(
        policy,
        requests,
        buckets=BUCKETS,
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
    policy.config = dataclasses.replace(policy.config, unstack_decode=True)
    return policy


@pytest.mark.parametrize("make_policy", [span_loving_policy, transformer, unstacked_transformer])
@pytest.mark.parametrize("num_slots", [1, 4])
def test_every_request_gets_what_it_gets_alone(num_slots, make_policy):
    policy, requests = make_policy(), make_requests(11)
    found = run(policy, requests, num_slots)
    assert sorted(found) == list(range(11))
    lengths = set()
    for number, request in enumerate(requests):
        expected = alone(policy, request)
        got = found[number].decoded
        np.testing.assert_array_equal(got.responses, expected.responses)
        np.testing.assert_array_equal(got.lengths, expected.lengths)
        np.testing.assert_allclose(got.log_probs, expected.log_probs, atol=1e-6)
        lengths.add(int(np.asarray(got.lengths).max()))
    assert len(lengths) > 3, "groups of one length would all leave together"


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


def test_prompts_without_a_bucket_and_impossible_buckets_are_refused():
    policy = span_loving_policy()
    long = Request(
        np.zeros(17, int), *np.ones((3, 17), bool), keys=row_keys(0, 0, np.arange(1), 3)[0]
    )
    with pytest.raises(DecodingInputError, match="prompt 0 has 17 tokens, the longest bucket 16"):
        run(policy, [long], 1)
    with pytest.raises(DecodingInputError, match=r"buckets \(16, 8\) must ascend"):
        next(decode_all(policy, [], buckets=(16, 8), num_slots=1, sampling=SAMPLING, limits=LIMITS))
