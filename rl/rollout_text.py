"""A rollout on the host: its texts and spans, and the rewards of its responses."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from decoding.decode_loop import Limits
from decoding.rollout import Rollout
from decoding.spans import CopiedSpan, find_spans, span_trace
from rl.batch import PromptText
from rl.rewards.composite import Completion, Reward, overlong_factor
from rl.rewards.guarded import guarded
from rl.rewards.rule import Asked, RewardRule, recalled_spans
from tasks.scoring.truth import GroundTruth

Detokenize = Callable[[Sequence[int]], str]
# Copies arrays of B prompts to the host: of all prompts, or of those that this host reads.
Fetch = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class RolloutText:
    """A rollout with its texts on the host, for people and for rewards.

    If several hosts read one rollout, each has the tokens, completions and spans of its prompts.
    """

    rollout: Rollout
    tokens: Int[np.ndarray, "rows G T"]
    completions: list[list[Completion]]
    spans: list[list[list[CopiedSpan]]]


def read_rollout(
    rollout: Rollout, limits: Limits, detokenize: Detokenize, fetch: Fetch = jax.device_get
) -> RolloutText:
    """Read the texts and spans of responses that were decoded under these limits."""
    seen = _read_back(rollout, rules=limits.rules, budget=limits.max_new_tokens)
    spans = find_spans(rollout, seen, limits.rules, fetch=fetch)
    tokens, lengths = fetch((rollout.tokens, rollout.lengths))
    completions = [
        [
            read_completion(tokens[b, g, : lengths[b, g]], row_spans, detokenize, limits)
            for g, row_spans in enumerate(group)
        ]
        for b, group in enumerate(spans)
    ]
    return RolloutText(rollout, tokens, completions, spans)


_read_back = jax.jit(span_trace, static_argnames=("rules", "budget"))


def read_completion(
    tokens: np.ndarray,
    spans: Sequence[CopiedSpan],
    detokenize: Detokenize,
    limits: Limits,
) -> Completion:
    """Return a response as the reward reads it. Recall tokens are counted by id."""
    rules = limits.rules
    finished = len(tokens) > 0 and int(tokens[-1]) in limits.stop_tokens
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
    """The rewards of a rollout's responses.

    Attributes:
      totals: the rewards in [0, 1], shaped for length; 0 for a response without a reward.
      rewards: the components of each reward; all 0 for a response without a reward.
      known: which responses have a reward; updates learn nothing from the others.
      problems: a line for each response without a reward, in order: which response, and why.
    """

    totals: Float[np.ndarray, "B G"]
    rewards: list[list[Reward]]
    known: Bool[np.ndarray, "B G"]
    problems: list[str]


NO_REWARD = Reward(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def reward_groups(
    read: RolloutText,
    texts: Sequence[PromptText],
    rule: RewardRule,
    *,
    max_new_tokens: int,
    overlong_buffer: int,
) -> GroupRewards:
    """Return the rewards of all responses; a failing one does not affect the others."""
    rewards: list[list[Reward]] = []
    problems: list[str] = []
    totals = np.zeros([len(texts), len(read.completions[0])], np.float32)
    known = np.ones(totals.shape, bool)
    for number, (text, group) in enumerate(zip(texts, read.completions, strict=True)):
        rewards.append([])
        # Training uses only prompts with a known answer.
        asked = Asked(text.example_id, text.prompt, cast(GroundTruth, text.ground_truth))
        for place, completion in enumerate(group):
            # Only a function of the user's sees them.
            spans = (
                recalled_spans(read.spans[number][place], completion.spans, text)
                if rule.function is not None
                else ()
            )
            found = guarded(functools.partial(rule.reward, completion, asked, spans))
            if isinstance(found, str):
                problems.append(f"{text.example_id}, response {place}: {found}")
                found, known[number, place] = NO_REWARD, False
            else:
                totals[number, place] = found.total * overlong_factor(
                    completion.num_tokens, max_new_tokens, overlong_buffer
                )
            rewards[-1].append(found)
    return GroupRewards(totals, rewards, known, problems)
