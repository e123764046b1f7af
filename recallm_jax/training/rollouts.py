"""Sampling and rewarding the groups of a step, on one process or on several.

A process samples and rewards its own prompts. Then all processes exchange the rewards, so that each
has the same rewards for all prompts (`Context.gather_rows`).
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from decoding.driver import decode
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import row_keys
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.training.policy_stage import PolicyStage
from recallm_jax.training.rollout_metrics import DrawReport, prompt_means
from recallm_jax.training.speed import count_tokens
from recallm_jax.training.stages import KEY_STRIDE
from rl.batch import PromptText, ScoredRollout
from rl.rollout_text import RolloutText, read_rollout, reward_groups


def keys_of(run: PolicyStage, texts: Sequence[PromptText], draw: int) -> Key[Array, "rows G"]:
    """Return a random key for each response of a draw; no two draws of a run share keys."""
    numbers = np.array([text.number for text in texts], np.uint32)
    number = run.stage.number * KEY_STRIDE + draw
    return row_keys(run.seed, number, numbers, run.options.group_size)


def sample(
    run: PolicyStage, policy: Policy, prompts: Prompts, keys: Key[Array, "rows G"]
) -> RolloutText:
    """Sample a group of responses for each prompt, and read their texts.

    Args:
      policy: the policy with decoding's layout and types (`for_rollout`).
      prompts, keys: those of this process.
    """
    context, parts = run.context, run.options.rollout_parts
    read = []
    for part in range(parts):
        some = jax.tree.map(lambda x, part=part: x[part::parts], (prompts, keys))
        placed, placed_keys = context.place_rows(some, run.stage.batch_size // parts)
        rollout = decode(policy, placed, placed_keys, sampling=run.sampling, limits=run.limits)
        read.append(read_rollout(rollout, run.limits, context.tokenizer.decode, context.fetch_rows))
    return _in_order(read, context)


def reward(
    run: PolicyStage, read: RolloutText, texts: Sequence[PromptText]
) -> tuple[ScoredRollout, DrawReport]:
    """Reward the responses; return the rewards of all processes' prompts, and a report on them."""
    context, count = run.context, run.stage.batch_size
    own = reward_groups(
        read,
        texts,
        run.rewards,
        max_new_tokens=run.limits.max_new_tokens,
        overlong_buffer=run.options.overlong_buffer,
    )
    known = context.gather_rows(own.known, count)
    # If another process has a reward for the response, that reward counts: there is no problem.
    still = ~known[context.own_rows(count)][~own.known]
    problems = [problem for problem, is_one in zip(own.problems, still, strict=True) if is_one]
    report = DrawReport(
        totals=context.gather_rows(own.totals, count),
        known=known,
        problems=processes.texts_of_all(problems, context.mesh),
        means=context.gather_rows(prompt_means(read, own), count),
        tokens=count_tokens(read.rollout),
    )
    learned_from = _with_reward(read.rollout, context.place(known))
    return ScoredRollout(learned_from, report.totals, known), report


def first_with_spread(kept: ScoredRollout, drawn: ScoredRollout, context: Context) -> ScoredRollout:
    """Return the first groups whose rewards differ, and as many others as make up a full batch.

    All arrays have the shape of one draw or of two, so that no step compiles again.
    """
    flat = ~np.concatenate([kept.spread, drawn.spread])
    rows = np.argsort(flat, kind="stable")[: len(kept.totals)]

    def chosen(one: Array, other: Array) -> Array:
        return jnp.concatenate([one, other])[rows]

    return ScoredRollout(
        context.place(jax.tree.map(chosen, kept.rollout, drawn.rollout)),
        np.concatenate([kept.totals, drawn.totals])[rows],
        np.concatenate([kept.known, drawn.known])[rows],
    )


def _with_reward(rollout: Rollout, known: Bool[Array, "B G"]) -> Rollout:
    """Empty the responses without a reward, so that losses and means leave them out."""
    lengths = rollout.lengths * known.astype(rollout.lengths.dtype)
    return dataclasses.replace(rollout, lengths=lengths)


def interleaved(parts: Sequence[Rollout]) -> Rollout:
    """Join n parts of a rollout; part p has the prompts p, p + n, …

    Every device has equally many prompts of each part, and keeps them in the joined rollout.
    """

    def whole(*fields: Array) -> Array:
        return jnp.stack(fields, axis=1).reshape(-1, *fields[0].shape[1:])

    return jax.tree.map(whole, *parts)


def _in_order(parts: Sequence[RolloutText], context: Context) -> RolloutText:
    """Join the parts of a rollout with their texts and spans."""
    if len(parts) == 1:
        return parts[0]
    rollout = context.place(interleaved([part.rollout for part in parts]))

    def in_order(rows: Iterable[Sequence]) -> list:
        return [group for beside in zip(*rows, strict=True) for group in beside]

    tokens = np.stack([part.tokens for part in parts], axis=1)
    return RolloutText(
        rollout,
        tokens.reshape(-1, *tokens.shape[2:]),
        in_order(part.completions for part in parts),
        in_order(part.spans for part in parts),
    )
