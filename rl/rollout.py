"""One step's rollouts: prompts in, groups of scored responses out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from decoding.arrays import AnyArray
from decoding.decode_loop import Decoded, Limits, decode
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import Sampling
from decoding.span_copy import CopySource, SpanRules, SpanState, trace, whole_source
from decoding.spans import CopiedSpan, find_spans
from decoding.suffix_index import SuffixIndex
from rl.batch import PromptText, Responses
from rl.rewards.categories import RewardSettings
from rl.rewards.composite import Completion, Reward, overlong_factor, score

Detokenize = Callable[[Sequence[int]], str]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """B groups of G responses: arrays for the update, text for people and rewards."""

    responses: Responses
    sampler_log_probs: Float[Array, "B G T"]
    completions: list[list[Completion]]
    spans: list[list[list[CopiedSpan]]]


def sample_groups(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    detokenize: Detokenize,
    *,
    rules: SpanRules,
    sampling: Sampling,
    max_new_tokens: int,
    stop_token: int,
    prefix: Int[AnyArray, "B G P"] | None = None,
) -> Rollout:
    """Sample G responses of each prompt and read their spans back; see `decode`."""
    decoded, index = decode(
        policy,
        prompts,
        keys,
        sampling=sampling,
        limits=Limits(rules, max_new_tokens, stop_tokens=(stop_token,)),
        prefix=prefix,
    )
    return read_rollout(
        prompts,
        decoded,
        index,
        detokenize,
        rules=rules,
        max_new_tokens=max_new_tokens,
        stop_token=stop_token,
    )


def read_rollout(
    prompts: Prompts,
    decoded: Decoded,
    index: SuffixIndex,
    detokenize: Detokenize,
    *,
    rules: SpanRules,
    max_new_tokens: int,
    stop_token: int,
) -> Rollout:
    """Read the spans and texts of decoded responses back; rules and limits are the decoder's."""
    source, states = _read_back(prompts, index, decoded.responses, rules, max_new_tokens)
    spans = find_spans(decoded.responses, decoded.lengths, states, source, rules)
    tokens, lengths = jax.device_get((decoded.responses, decoded.lengths))
    completions = [
        [
            read_completion(tokens[b, g, : lengths[b, g]], row_spans, detokenize, rules, stop_token)
            for g, row_spans in enumerate(group)
        ]
        for b, group in enumerate(spans)
    ]
    responses = Responses(prompts, index, decoded.responses, decoded.lengths)
    return Rollout(responses, decoded.log_probs, completions, spans)


@functools.partial(jax.jit, static_argnames=("rules", "budget"))
def _read_back(
    prompts: Prompts,
    index: SuffixIndex,
    responses: Int[Array, "B G T"],
    rules: SpanRules,
    budget: int,
) -> tuple[CopySource, SpanState]:
    source = whole_source(prompts, index, responses, rules)
    return source, trace(responses, source, rules, budget)


def read_completion(
    tokens: np.ndarray,
    spans: Sequence[CopiedSpan],
    detokenize: Detokenize,
    rules: SpanRules,
    stop_token: int,
) -> Completion:
    """Return a response as the reward sees it. Recall tokens are counted by id."""
    finished = len(tokens) > 0 and int(tokens[-1]) == stop_token
    return Completion(
        text=detokenize(tokens[: len(tokens) - finished].tolist()),
        num_tokens=len(tokens),
        spans=tuple(detokenize(tokens[span.start : span.end].tolist()) for span in spans),
        num_starts=int((tokens == rules.start_token).sum()),
        num_ends=int((tokens == rules.end_token).sum()),
        finished=bool(finished),
    )


def reward_groups(
    rollout: Rollout,
    texts: Sequence[PromptText],
    settings: RewardSettings,
    *,
    max_new_tokens: int,
    overlong_buffer: int,
) -> tuple[Float[np.ndarray, "B G"], list[list[Reward]]]:
    """Return the rewards of all responses, shaped for length, and their components.

    Raises:
      ValueError: a reward is not a number in [0, 1]; names the example.
    """
    rewards = [
        [score(completion, text.ground_truth, settings) for completion in group]
        for text, group in zip(texts, rollout.completions, strict=True)
    ]
    totals = np.array(
        [
            [
                reward.total
                * overlong_factor(completion.num_tokens, max_new_tokens, overlong_buffer)
                for reward, completion in zip(row, group, strict=True)
            ]
            for row, group in zip(rewards, rollout.completions, strict=True)
        ],
        np.float32,
    )
    for text, row in zip(texts, totals, strict=True):
        if not (np.isfinite(row).all() and (row >= 0).all() and (row <= 1).all()):
            raise ValueError(f"rewards {row.tolist()} of {text.example_id} leave [0, 1]")
    return totals, rewards
