"""The groups that a step learns from: sampled, rewarded, and drawn anew where rewards are equal.

Every process has the rewards of all prompts, and the same ones: `Context.gather_rows`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from decoding.decode_loop import Limits, decode
from decoding.policy import Policy
from decoding.rollout import Rollout
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.policy.context import Context
from recallm_jax.policy.partitioning import for_rollout
from recallm_jax.runtime import processes
from recallm_jax.training.rollout_metrics import PromptMeans, prompt_means, rollout_metrics
from recallm_jax.training.stages import KEY_STRIDE, PPO, Stage
from rl.batch import ScoredRollout
from rl.rollout import GroupRewards, RolloutText, read_rollout, reward_groups
from tasks.datasets import registry
from tasks.prompts.record import Record
from tasks.scoring.reward import SETTINGS


@dataclasses.dataclass(frozen=True)
class Collected:
    """The groups that a step learns from, and what was seen on the way to them.

    Attributes:
      rewarded: whether any response has a reward, of all that were sampled, kept or not.
      metrics: means over the same.
      problems: why responses have no reward.
      draws: batches of prompts that were sampled.
      records: that were drawn; the prompts are of these.
    """

    scored: ScoredRollout
    rewarded: bool
    metrics: dict[str, float]
    problems: list[str]
    draws: int
    records: list[Record]


def collect(
    config: ConfigDict,
    context: Context,
    stage: Stage,
    policy: Policy,
    rules: SpanRules,
    data: Iterator[list[Record]],
    drawn: int,
) -> Collected:
    """Sample batches of groups until enough of them have a spread of rewards, or draws run out.

    The groups without a spread that fill up a batch teach nothing (DAPO, arXiv 2503.14476, section
    3.2, which draws on).

    Args:
      rules: of the recall spans.
      drawn: records that the stage has drawn before.
    """
    most = config[stage.name].max_draws if stage.name != PPO else 1
    kept: ScoredRollout | None = None
    seen: list[tuple[GroupRewards, PromptMeans]] = []
    records: list[Record] = []
    # Resharded once for all draws; let go of before the update.
    policy = for_rollout(policy)
    while kept is None or (len(seen) < most and not kept.spread.all()):
        # Numbered over the whole stage, so that no two draws share their random numbers.
        draw = drawn // stage.batch_size + len(seen)
        drawn_now = next(data)
        records += drawn_now
        read, rewards, means = sample(config, context, stage, policy, rules, drawn_now, draw)
        seen.append((rewards, means))
        scored = ScoredRollout(
            _with_reward(read.rollout, context.place(rewards.known)), rewards.totals, rewards.known
        )
        kept = scored if kept is None else _first_with_spread(kept, scored, context)
    return Collected(
        scored=kept,
        rewarded=any(bool(scored.known.any()) for scored, _ in seen),
        metrics=rollout_metrics(seen),
        problems=[problem for scored, _ in seen for problem in scored.problems],
        draws=len(seen),
        records=records,
    )


def _first_with_spread(
    kept: ScoredRollout, drawn: ScoredRollout, context: Context
) -> ScoredRollout:
    """Return as many groups as before, those with a spread first, the earlier before the later.

    All shapes are those of one draw or of two, so that nothing is compiled anew from step to step.
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
    """Empty the responses that have no reward, so that they are in no loss and no mean."""
    lengths = rollout.lengths * known.astype(rollout.lengths.dtype)
    return dataclasses.replace(rollout, lengths=lengths)


def sample(
    config: ConfigDict,
    context: Context,
    stage: Stage,
    policy: Policy,
    rules: SpanRules,
    records: list[Record],
    draw: int,
) -> tuple[RolloutText, GroupRewards, PromptMeans]:
    """Return a rollout, and what it is worth: of all its prompts, whichever host scored them."""
    options, count = config[stage.name], stage.batch_size
    prompts, texts = prompts_and_texts(records, config.data.target_length)
    numbers = np.array([text.number for text in texts], np.uint32)
    keys = row_keys(config.seed, stage.number * KEY_STRIDE + draw, numbers, options.group_size)
    parts = options.rollout_parts

    limits = Limits(rules, config.decoding.max_new_tokens, (context.tokenizer.eos_id,))

    def sampled(part: int) -> RolloutText:
        some = jax.tree.map(lambda x: x[part::parts], (prompts, keys))
        placed, placed_keys = context.place_rows(some, count // parts)
        sampling = Sampling(temperature=options.temperature)
        rollout = decode(policy, placed, placed_keys, sampling=sampling, limits=limits)
        return read_rollout(rollout, limits, context.tokenizer.decode, context.fetch_rows)

    rollout = _interleaved([sampled(part) for part in range(parts)], context)
    own = reward_groups(
        rollout,
        texts,
        SETTINGS["train"],
        scorer_of=registry.find,
        max_new_tokens=config.decoding.max_new_tokens,
        overlong_buffer=options.overlong_buffer,
    )
    known = context.gather_rows(own.known, count)
    # Where another process's reward stands for a response, this one's problem is none.
    still = ~known[context.own_rows(count)][~own.known]
    problems = [problem for problem, is_one in zip(own.problems, still, strict=True) if is_one]
    scored = dataclasses.replace(
        own,
        totals=context.gather_rows(own.totals, count),
        known=known,
        problems=processes.texts_of_all(problems, context.mesh),
    )
    return rollout, scored, context.gather_rows(prompt_means(rollout, own), count)


def _interleaved(parts: Sequence[RolloutText], context: Context) -> RolloutText:
    """Return the rollout of all prompts from n parts, of which part p has prompts p, p + n, …

    So every device has as many prompts of each part, and those that it has of the whole.
    """
    if len(parts) == 1:
        return parts[0]

    def whole(*fields: Array) -> Array:
        return jnp.stack(fields, axis=1).reshape(-1, *fields[0].shape[1:])

    rollout = context.place(jax.tree.map(whole, *(part.rollout for part in parts)))

    def in_order(rows: Iterable[Sequence]) -> list:
        return [group for beside in zip(*rows, strict=True) for group in beside]

    tokens = np.stack([part.tokens for part in parts], axis=1)
    return RolloutText(
        rollout,
        tokens.reshape(-1, *tokens.shape[2:]),
        in_order(part.completions for part in parts),
        in_order(part.spans for part in parts),
    )
