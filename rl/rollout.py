"""One step's rollouts: prompts in, groups of scored responses out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from decoding.arrays import AnyArray
from decoding.decode_loop import Decoded, Limits, decode
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import Sampling
from decoding.span_copy import SpanRules, whole_source
from decoding.spans import CopiedSpan, SpanTrace, find_spans, span_trace
from decoding.suffix_index import SuffixIndex
from rl.batch import PromptText, Responses
from rl.rewards.composite import Completion, Reward, Scorer, overlong_factor, score
from rl.rewards.guarded import guarded
from tasks.scoring.reward import RewardSettings

Detokenize = Callable[[Sequence[int]], str]
# Brings arrays of B prompts to the host: whole, or those prompts that this host is to read.
Fetch = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """B groups of G responses: arrays for the update, text for people and rewards.

    Where several hosts read one rollout, the tokens and texts are those of a host's own prompts.
    """

    responses: Responses
    sampler_log_probs: Float[Array, "B G T"]
    tokens: Int[np.ndarray, "rows G T"]
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
    fetch: Fetch = jax.device_get,
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
        fetch=fetch,
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
    fetch: Fetch = jax.device_get,
) -> Rollout:
    """Read the spans and texts of decoded responses back; rules and limits are the decoder's."""
    seen = _read_back(prompts, index, decoded.responses, rules, max_new_tokens)
    spans = find_spans(decoded.responses, decoded.lengths, seen, index, rules, fetch=fetch)
    tokens, lengths = fetch((decoded.responses, decoded.lengths))
    completions = [
        [
            read_completion(tokens[b, g, : lengths[b, g]], row_spans, detokenize, rules, stop_token)
            for g, row_spans in enumerate(group)
        ]
        for b, group in enumerate(spans)
    ]
    responses = Responses(prompts, index, decoded.responses, decoded.lengths)
    return Rollout(responses, decoded.log_probs, tokens, completions, spans)


@functools.partial(jax.jit, static_argnames=("rules", "budget"))
def _read_back(
    prompts: Prompts,
    index: SuffixIndex,
    responses: Int[Array, "B G T"],
    rules: SpanRules,
    budget: int,
) -> SpanTrace:
    return span_trace(responses, whole_source(prompts, index, responses, rules), rules, budget)


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


@dataclasses.dataclass(frozen=True)
class GroupRewards:
    """What the responses of a rollout are worth.

    Attributes:
      totals: rewards in [0, 1], shaped for length; 0 where there is no reward.
      rewards: their components, all 0 where there is no reward.
      known: which responses have a reward; nothing is to be learned from the others.
      problems: for each of the others, in order, which it is and why.
    """

    totals: Float[np.ndarray, "B G"]
    rewards: list[list[Reward]]
    known: Bool[np.ndarray, "B G"]
    problems: list[str]


NO_REWARD = Reward(**{field.name: 0.0 for field in dataclasses.fields(Reward)})


def reward_groups(
    rollout: Rollout,
    texts: Sequence[PromptText],
    settings: RewardSettings,
    *,
    scorer_of: Callable[[str], Scorer],
    max_new_tokens: int,
    overlong_buffer: int,
) -> GroupRewards:
    """Return the rewards of all responses; one that fails spoils no other.

    Args:
      scorer_of: returns the scorer of a data set by its name, or raises.
    """
    rewards: list[list[Reward]] = []
    problems: list[str] = []
    totals = np.zeros([len(texts), len(rollout.completions[0])], np.float32)
    known = np.ones(totals.shape, bool)
    for number, (text, group) in enumerate(zip(texts, rollout.completions, strict=True)):
        rewards.append([])
        for place, completion in enumerate(group):
            found = guarded(
                lambda completion, truth, settings: score(
                    completion, truth, settings, scorer_of(truth.dataset)
                ),
                completion,
                text.ground_truth,
                settings,
            )
            if isinstance(found, str):
                problems.append(f"{text.example_id}, response {place}: {found}")
                found, known[number, place] = NO_REWARD, False
            else:
                totals[number, place] = found.total * overlong_factor(
                    completion.num_tokens, max_new_tokens, overlong_buffer
                )
            rewards[-1].append(found)
    return GroupRewards(totals, rewards, known, problems)
