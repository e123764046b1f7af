"""The groups that a step learns from: sampled, rewarded, and drawn anew where rewards are equal.

Every process has the rewards of all prompts, and the same ones: `Context.gather_rows`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.policy.context import Context
from recallm_jax.policy.partitioning import for_rollout
from recallm_jax.runtime import processes
from recallm_jax.training.rollout_metrics import PromptMeans, prompt_means, rollout_metrics
from recallm_jax.training.stages import KEY_STRIDE, PPO, Stage
from rl.advantages import has_spread
from rl.batch import Responses
from rl.rollout import GroupRewards, Rollout, reward_groups, sample_groups
from tasks.datasets import registry
from tasks.prompts.record import Record
from tasks.scoring.reward import SETTINGS


@dataclasses.dataclass(frozen=True)
class Groups:
    """B groups of G responses with their rewards.

    Attributes:
      responses: on the devices; those without a reward are empty.
      known: which responses have a reward; the others count 0 in `totals`.
    """

    responses: Responses
    sampler_log_probs: Float[Array, "B G T"]
    totals: Float[np.ndarray, "B G"]
    known: Bool[np.ndarray, "B G"]

    @property
    def spread(self) -> Bool[np.ndarray, " B"]:
        """Whether the rewards of each group differ: the others teach nothing."""
        return np.asarray(has_spread(self.totals, self.known))


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

    groups: Groups
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
    kept: Groups | None = None
    seen: list[tuple[GroupRewards, PromptMeans]] = []
    records: list[Record] = []
    # Resharded once for all draws; let go of before the update.
    policy = for_rollout(policy)
    while kept is None or (len(seen) < most and not kept.spread.all()):
        # Numbered over the whole stage, so that no two draws share their random numbers.
        draw = drawn // stage.batch_size + len(seen)
        drawn_now = next(data)
        records += drawn_now
        rollout, scored, means = sample(config, context, stage, policy, rules, drawn_now, draw)
        seen.append((scored, means))
        groups = Groups(
            _with_reward(rollout.responses, context.place(scored.known)),
            rollout.sampler_log_probs,
            scored.totals,
            scored.known,
        )
        kept = groups if kept is None else _first_with_spread(kept, groups, context)
    return Collected(
        groups=kept,
        rewarded=any(bool(scored.known.any()) for scored, _ in seen),
        metrics=rollout_metrics(seen),
        problems=[problem for scored, _ in seen for problem in scored.problems],
        draws=len(seen),
        records=records,
    )


def _first_with_spread(kept: Groups, drawn: Groups, context: Context) -> Groups:
    """Return as many groups as before, those with a spread first, the earlier before the later.

    All shapes are those of one draw or of two, so that nothing is compiled anew from step to step.
    """
    flat = ~np.concatenate([kept.spread, drawn.spread])
    rows = np.argsort(flat, kind="stable")[: len(kept.totals)]

    def chosen(one: Array, other: Array) -> Array:
        return jnp.concatenate([one, other])[rows]

    both = [(groups.responses, groups.sampler_log_probs) for groups in (kept, drawn)]
    responses, sampler_log_probs = context.place(jax.tree.map(chosen, *both))
    return Groups(
        responses,
        sampler_log_probs,
        np.concatenate([kept.totals, drawn.totals])[rows],
        np.concatenate([kept.known, drawn.known])[rows],
    )


def _with_reward(responses: Responses, known: Bool[Array, "B G"]) -> Responses:
    """Return the responses; those without a reward are empty, so that no loss or mean has them."""
    lengths = responses.lengths * known.astype(responses.lengths.dtype)
    return dataclasses.replace(responses, lengths=lengths)


def sample(
    config: ConfigDict,
    context: Context,
    stage: Stage,
    policy: Policy,
    rules: SpanRules,
    records: list[Record],
    draw: int,
) -> tuple[Rollout, GroupRewards, PromptMeans]:
    """Return a rollout, and what it is worth: of all its prompts, whichever host scored them."""
    options, count = config[stage.name], stage.batch_size
    prompts, texts = prompts_and_texts(records, config.data.target_length)
    numbers = np.array([text.number for text in texts], np.uint32)
    keys = row_keys(config.seed, stage.number * KEY_STRIDE + draw, numbers, options.group_size)
    parts = options.rollout_parts

    def sampled(part: int) -> Rollout:
        some = jax.tree.map(lambda x: x[part::parts], (prompts, keys))
        placed, placed_keys = context.place_rows(some, count // parts)
        return sample_groups(
            policy,
            placed,
            placed_keys,
            context.tokenizer.decode,
            rules=rules,
            sampling=Sampling(temperature=options.temperature),
            max_new_tokens=config.decoding.max_new_tokens,
            stop_token=context.tokenizer.eos_id,
            fetch=context.fetch_rows,
        )

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


def _interleaved(parts: Sequence[Rollout], context: Context) -> Rollout:
    """Return the rollout of all prompts from n parts, of which part p has prompts p, p + n, …

    So every device has as many prompts of each part, and those that it has of the whole.
    """
    if len(parts) == 1:
        return parts[0]

    def whole(*fields: Array) -> Array:
        return jnp.stack(fields, axis=1).reshape(-1, *fields[0].shape[1:])

    arrays = [(part.responses, part.sampler_log_probs) for part in parts]
    responses, sampler_log_probs = context.place(jax.tree.map(whole, *arrays))

    def in_order(rows: Iterable[Sequence]) -> list:
        return [group for beside in zip(*rows, strict=True) for group in beside]

    tokens = np.stack([part.tokens for part in parts], axis=1)
    return Rollout(
        responses,
        sampler_log_probs,
        tokens.reshape(-1, *tokens.shape[2:]),
        in_order(part.completions for part in parts),
        in_order(part.spans for part in parts),
    )
