"""Continuous batching against fixed batches, which wait for their longest response.

    python -m benchmarks.continuous_batching --out=runs/continuous_batching.json

SmolLM2-135M's sizes with random weights, float32: 24 prompts of 256 tokens with 2 continuations
each, 6 groups at a time. The responses of a prompt have one length, drawn evenly from 8 to 128: a
prefix gives the stop token at that place, and no other is sampled. Fixed batches take the prompts
in the same order. Times include prefill, of one prompt or of six at a time, and leave compilation
out. The table has the medians of pairs of runs, each of some two minutes on 2 cores, and the number
of steps.
"""

import functools
import operator
import statistics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decode_loop import CONFIG, RULES
from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.span_copy import prompts_of
from decoding.decode_loop import SAMPLED, Limits
from decoding.driver import decode
from decoding.sampling import Sampling, row_keys
from decoding.scheduler import Request, decode_all
from recallm_jax.models.transformer import Transformer, random_transformer

NUM_PROMPTS, PROMPT, SLOTS, GROUP = 24, 256, 6, 2
SHORTEST, LONGEST = 8, 128
STOP = 0
SAMPLING = Sampling(temperature=1.0)
LOW = -1e6


def never_stop(logits):
    """Forbid the stop token, and spans, inside which the stop token would not stop."""
    return logits.at[..., STOP].add(LOW).at[..., RULES.start_token].add(LOW)


LIMITS = Limits(RULES, LONGEST, stop_tokens=(STOP,), processor=never_stop)


def make_requests(lengths: Sequence[int]) -> list[Request]:
    """Return one prompt a length, whose responses stop at that length."""
    prompts = jax.device_get(prompts_of(len(lengths), PROMPT, CONFIG.vocab_rows))
    keys = row_keys(0, 0, np.arange(len(lengths)), GROUP)
    return [
        Request(
            prompts.tokens[number],
            prompts.copyable[number],
            prompts.span_start[number],
            prompts.span_end[number],
            keys[number],
            prefix=np.array([SAMPLED] * (length - 1) + [STOP], np.int32),
        )
        for number, length in enumerate(lengths)
    ]


def scheduled(model: Transformer, requests: Sequence[Request]) -> dict[int, np.ndarray]:
    """Return the responses of each request, decoded by continuous batching."""
    finished = decode_all(
        model,
        requests,
        buckets=(PROMPT,),
        num_slots=SLOTS,
        sampling=SAMPLING,
        limits=LIMITS,
        max_prefix=LONGEST,
    )
    return {one.number: np.asarray(one.rollout.tokens[0]) for one in finished}


def in_batches(model: Transformer, requests: Sequence[Request]) -> dict[int, np.ndarray]:
    """Return the responses of each request, decoded in fixed batches."""
    prompts = prompts_of(len(requests), PROMPT, CONFIG.vocab_rows)
    responses: dict[int, np.ndarray] = {}
    for start in range(0, len(requests), SLOTS):
        batch = requests[start : start + SLOTS]
        prefix = np.full((SLOTS, GROUP, LONGEST), SAMPLED, np.int32)
        for rows, one in zip(prefix, batch, strict=True):
            given = np.asarray(one.prefix)
            rows[:, : len(given)] = given
        decoded = decode(
            model,
            jax.tree.map(operator.itemgetter(slice(start, start + SLOTS)), prompts),
            jnp.stack([request.keys for request in batch]),
            sampling=SAMPLING,
            limits=LIMITS,
            prefix=prefix,
        )
        responses |= dict(enumerate(np.asarray(decoded.tokens), start))
    return responses


def steps_of(lengths: Sequence[int]) -> dict[str, int]:
    """Count the steps of both ways without a model."""
    batches = [max(lengths[start : start + SLOTS]) for start in range(0, len(lengths), SLOTS)]
    left: list[int] = []
    waiting, steps = list(lengths), 0
    while waiting or left:
        while waiting and len(left) < SLOTS:
            left.append(waiting.pop(0))
        taken = min(left)
        steps += taken
        left = [one - taken for one in left if one > taken]
    return {"batches": sum(batches), "scheduler": steps}


def check(found: dict[int, np.ndarray], lengths: Sequence[int]) -> None:
    """Check that responses stop where they should.

    Raises:
      RuntimeError: a response does not.
    """
    for number, length in enumerate(lengths):
        if (found[number][:, length - 1] != STOP).any() or found[number][:, length:].any():
            raise RuntimeError(f"responses of prompt {number} do not stop after {length} tokens")


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    model = random_transformer(CONFIG, jax.random.key(0))
    lengths = np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, NUM_PROMPTS).tolist()
    requests = make_requests(lengths)
    ways = {
        "batches": functools.partial(in_batches, model, requests),
        "scheduler": functools.partial(scheduled, model, requests),
    }
    for decode_them in ways.values():
        check(decode_them(), lengths)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, decode_them in ways.items():
            times[name].append(median_seconds(decode_them))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["batches"], times["scheduler"], strict=True)]
    ratio, steps = statistics.median(ratios), steps_of(lengths)
    print(f"{NUM_PROMPTS} prompts of {PROMPT} tokens, {SLOTS} at a time, {GROUP} responses each")
    print("way        seconds  steps  tokens/s")
    made = GROUP * sum(lengths)
    for name in ways:
        print(f"{name:9s}  {seconds[name]:7.1f}  {steps[name]:5d}  {made / seconds[name]:8.1f}")
    print(f"batches/scheduler: {ratio:.2f} in seconds, of {len(ratios)} pairs of runs")
    row = {
        "response_tokens": lengths,
        "seconds": seconds,
        "all_seconds": times,
        "steps": steps,
        "batches_over_scheduler": ratio,
    }
    settings = {"prompts": NUM_PROMPTS, "prompt_tokens": PROMPT, "slots": SLOTS, "group": GROUP}
    write_report(arguments.out, [row], **settings)


if __name__ == "__main__":
    main()
