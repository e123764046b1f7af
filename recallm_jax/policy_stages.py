"""The policy-gradient stages: the GRPO family and PPO, from step to step of a learner's state.

A step samples groups, rewards them, and updates: one batch of `prompts_per_step` whole groups, in
`minibatches` updates, `epochs` times over.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.sampling import Sampling, row_keys
from recallm_jax import processes
from recallm_jax.bad_batch import Inspected
from recallm_jax.errors import UserError
from recallm_jax.partitioning import for_rollout
from recallm_jax.record_arrays import prompts_and_texts
from recallm_jax.rollout_metrics import PromptMeans, prompt_means, rollout_metrics
from recallm_jax.setup_policy import Setup
from recallm_jax.stages import (
    KEY_STRIDE,
    PPO,
    Save,
    Stage,
    Write,
    finite,
    scoring_of,
    training_rules,
)
from rl.advantages import OF_GROUPS, generalized, has_spread, token_rewards, whiten
from rl.batch import Batch, Responses
from rl.learner import (
    LearnerState,
    PolicyLoss,
    Scoring,
    policy_update,
    score_and_value_in_parts,
    score_in_parts,
    token_mask,
)
from rl.losses import kl_k1
from rl.rewards.categories import SETTINGS
from rl.rollout import GroupRewards, Rollout, reward_groups, sample_groups
from tasks.record import Record


@dataclasses.dataclass(frozen=True)
class Collected:
    """The groups that a step learns from, and what was seen on the way to them.

    Attributes:
      rewarded: whether any response has a reward, of all that were sampled, kept or not.
      metrics: means over the same.
      draws: batches of prompts that were sampled.
      records: that were drawn; the prompts are of these.
    """

    responses: Responses
    sampler_log_probs: Float[Array, "B G T"]
    totals: Float[np.ndarray, "B G"]
    known: Bool[np.ndarray, "B G"]
    rewarded: bool
    metrics: dict[str, float]
    problems: list[str]
    draws: int
    records: list[Record]


def run_policy(
    config: ConfigDict,
    setup: Setup,
    stage: Stage,
    state: LearnerState,
    reference: Policy,
    *,
    steps: Iterable[int],
    data: Iterator[list[Record]],
    drawn: int,
    write: Write,
    save: Save,
    say: Callable[[str], None],
) -> LearnerState:
    """Run a stage of the GRPO family (arXiv 2604.09494, section 4.2) or of PPO.

    Args:
      reference: the frozen policy of the KL penalty.
      drawn: records that the stage has drawn before.
      say: is told of responses without a reward, and of batches that teach nothing.

    Raises:
      UserError: of all that a step has sampled, no response has a reward; the state before that
        step is saved.
    """
    options = config[stage.name]
    scoring = scoring_of(config, training_rules(config, setup), temperature=options.temperature)
    loss = policy_loss(config, stage)
    num_parts = options.prompts_per_step // options.minibatches // options.micro_batch
    for step in steps:
        collected = _collect(config, setup, stage, state.policy, data, drawn)
        for problem in collected.problems:
            say(f"{stage.name} {step}: no reward for {problem}")
        if not collected.rewarded:
            save(step, state, drawn, now=True)
            raise UserError(
                f"{stage.name} {step}: no response has a reward; the first: "
                f"{collected.problems[0]}. Step {step} is saved; mend the reward, then start the "
                "same command again"
            )
        if stage.name != PPO and not has_spread(collected.totals, collected.known).any():
            ids = processes.texts_of_all([one.example_id for one in collected.records], setup.mesh)
            say(f"{stage.name} {step}: rewards differ in no group; they teach nothing: {_few(ids)}")
        drawn += collected.draws * stage.batch_size
        batch, metrics = _batch(config, setup, stage, state, reference, collected, scoring)
        updates = []
        for rows in _minibatches(config, stage, step):
            part = batch if rows is None else setup.place(_rows(batch, rows))
            state, found = policy_update(
                state,
                part,
                optimizer=stage.optimizer,
                scoring=scoring,
                loss=loss,
                num_parts=num_parts,
            )
            updates.append(found)
        means = jax.tree.map(lambda *values: sum(values) / len(values), *updates)
        rewards = np.where(collected.known, collected.totals, np.nan)
        seen = Inspected(collected.records, collected.responses, batch, rewards)
        write(step, finite(means, stage, step, seen) | metrics | collected.metrics)
        save(step + 1, state, drawn)
    return state


def policy_loss(config: ConfigDict, stage: Stage) -> PolicyLoss:
    """Return the loss that a stage's section of the config asks for."""
    options = config[stage.name]
    shared = {
        name: options[name] for name in ("clip_low", "clip_high", "importance_cap", "aggregation")
    }
    if stage.name == PPO:
        return PolicyLoss(
            kl_coefficient=0.0,
            value_coefficient=options.value_coefficient,
            value_clip=options.value_clip,
            **shared,
        )
    return PolicyLoss(
        kl_coefficient=options.kl_coefficient if options.kl_in == "loss" else 0.0,
        kl_estimator=options.kl_estimator,
        ratio=options.ratio,
        **shared,
    )


def _collect(
    config: ConfigDict,
    setup: Setup,
    stage: Stage,
    policy: Policy,
    data: Iterator[list[Record]],
    drawn: int,
) -> Collected:
    """Sample batches of groups until enough of them have a spread of rewards, or draws run out.

    The groups without a spread that fill up a batch teach nothing (DAPO, arXiv 2503.14476, section
    3.2, which draws on).
    """
    options, needed = config[stage.name], stage.batch_size
    most = options.max_draws if stage.name != PPO else 1
    kept: list[tuple] = []
    seen: list[tuple[GroupRewards, PromptMeans]] = []
    records: list[Record] = []
    count = 0
    # Resharded once for all draws; let go of before the update.
    policy = for_rollout(policy)
    while count < needed:
        # Numbered over the whole stage, so that no two draws share their random numbers.
        draw = drawn // stage.batch_size + len(seen)
        drawn_now = next(data)
        records += drawn_now
        rollout, scored, means = _sample(config, setup, stage, policy, drawn_now, draw)
        seen.append((scored, means))
        known = setup.place(scored.known)
        arrays = (_with_reward(rollout.responses, known), rollout.sampler_log_probs)
        if most == 1:
            kept = [(arrays, scored.totals, scored.known)]
            break
        flat = ~np.asarray(has_spread(scored.totals, scored.known))
        # Those with a spread come first; at last the others have to do.
        order = np.argsort(flat, kind="stable")
        rows = order[: (needed if len(seen) == most else (~flat).sum())][: needed - count]
        count += len(rows)
        kept.append((_rows(arrays, rows), scored.totals[rows], scored.known[rows]))
    found, totals, has_reward = zip(*kept, strict=True)
    responses, sampler_log_probs = found[0] if most == 1 else setup.place(_joined(found))
    return Collected(
        responses=responses,
        sampler_log_probs=sampler_log_probs,
        totals=np.concatenate(totals),
        known=np.concatenate(has_reward),
        rewarded=any(bool(scored.known.any()) for scored, _ in seen),
        metrics=rollout_metrics(seen),
        problems=[problem for scored, _ in seen for problem in scored.problems],
        draws=len(seen),
        records=records,
    )


def _with_reward(responses: Responses, known: Bool[Array, "B G"]) -> Responses:
    """Return the responses; those without a reward are empty, so that no loss or mean has them."""
    lengths = responses.lengths * known.astype(responses.lengths.dtype)
    return dataclasses.replace(responses, lengths=lengths)


def _few(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _rows(tree, rows: np.ndarray | slice):
    return jax.tree.map(lambda x: x[rows], tree)


def _joined(parts: Sequence[tuple]):
    return jax.tree.map(lambda *fields: jnp.concatenate(fields), *parts)


def _sample(
    config: ConfigDict,
    setup: Setup,
    stage: Stage,
    policy: Policy,
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
        some = _rows((prompts, keys), slice(part, None, parts))
        placed, placed_keys = setup.place_rows(some, count // parts)
        return sample_groups(
            policy,
            placed,
            placed_keys,
            setup.tokenizer.decode,
            rules=training_rules(config, setup),
            sampling=Sampling(temperature=options.temperature),
            max_new_tokens=config.decoding.max_new_tokens,
            stop_token=setup.tokenizer.eos_id,
            fetch=setup.fetch_rows,
        )

    rollout = _interleaved([sampled(part) for part in range(parts)], setup)
    own = reward_groups(
        rollout,
        texts,
        SETTINGS["train"],
        max_new_tokens=config.decoding.max_new_tokens,
        overlong_buffer=options.overlong_buffer,
    )
    scored = dataclasses.replace(
        own,
        totals=setup.gather_rows(own.totals, count),
        known=setup.gather_rows(own.known, count),
        problems=processes.texts_of_all(own.problems, setup.mesh),
    )
    return rollout, scored, setup.gather_rows(prompt_means(rollout, own), count)


def _interleaved(parts: Sequence[Rollout], setup: Setup) -> Rollout:
    """Return the rollout of all prompts from n parts, of which part p has prompts p, p + n, …

    So every device has as many prompts of each part, and those that it has of the whole.
    """
    if len(parts) == 1:
        return parts[0]

    def whole(*fields: Array) -> Array:
        return jnp.stack(fields, axis=1).reshape(-1, *fields[0].shape[1:])

    arrays = [(part.responses, part.sampler_log_probs) for part in parts]
    responses, sampler_log_probs = setup.place(jax.tree.map(whole, *arrays))

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


def _batch(
    config: ConfigDict,
    setup: Setup,
    stage: Stage,
    state: LearnerState,
    reference: Policy,
    collected: Collected,
    scoring: Scoring,
) -> tuple[Batch, dict[str, float]]:
    """Return the batch of an update, with log-probabilities, advantages and values."""
    options, responses = config[stage.name], collected.responses
    parts = {"scoring": scoring, "num_parts": options.prompts_per_step // options.micro_batch}
    totals, known = setup.place((collected.totals, collected.known))
    reference_log_probs = None
    if options.kl_coefficient:
        reference_log_probs = score_in_parts(reference, responses, **parts)
    if state.critic is not None:
        old, values = score_and_value_in_parts(state.policy, state.critic, responses, **parts)
        return ppo_batch(options, collected, totals, old, values, reference_log_probs)
    old = None
    # At the only update of a batch the old policy is the one at hand.
    if options.minibatches * options.epochs > 1:
        old = score_in_parts(state.policy, responses, **parts)
    return group_batch(options, collected, totals, known, old, reference_log_probs)


def group_batch(
    options: ConfigDict,
    collected: Collected,
    totals: Float[Array, "B G"],
    known: Bool[Array, "B G"],
    old: Float[Array, "B G T"] | None,
    reference: Float[Array, "B G T"] | None,
) -> tuple[Batch, dict[str, float]]:
    """Return the batch of a group-relative update: an advantage for each response."""
    metrics = {}
    if options.kl_in == "reward" and reference is not None:
        penalty = _sequence_kl(collected.sampler_log_probs, reference, collected.responses)
        totals = totals - options.kl_coefficient * penalty
        metrics["kl_penalty"] = float(penalty.mean())
        reference = None
    batch = Batch(
        responses=collected.responses,
        advantages=OF_GROUPS[options.advantage](totals, known)[..., None],
        sampler_log_probs=collected.sampler_log_probs,
        old_log_probs=old,
        reference_log_probs=reference,
    )
    return batch, metrics


def ppo_batch(
    options: ConfigDict,
    collected: Collected,
    totals: Float[Array, "B G"],
    old: Float[Array, "B G T"],
    values: Float[Array, "B G T"],
    reference: Float[Array, "B G T"] | None,
) -> tuple[Batch, dict[str, float]]:
    """Return the batch of a PPO update: an advantage and a return for each token."""
    advantages, returns, kl = _ppo_targets(
        totals,
        old,
        old if reference is None else reference,
        values,
        collected.responses,
        coefficient=options.kl_coefficient,
        discount=options.discount,
        trace_decay=options.trace_decay,
    )
    batch = Batch(
        responses=collected.responses,
        advantages=advantages,
        sampler_log_probs=collected.sampler_log_probs,
        old_log_probs=old,
        reference_log_probs=None,
        old_values=values,
        returns=returns,
    )
    return batch, {"kl_penalty": float(kl)}


@jax.jit
def _sequence_kl(
    sampler_log_probs: Float[Array, "B G T"],
    reference_log_probs: Float[Array, "B G T"],
    responses: Responses,
) -> Float[Array, "B G"]:
    """Return k1 of the sampler against the reference, summed over each response."""
    kl = kl_k1(sampler_log_probs, reference_log_probs)
    return jnp.where(token_mask(responses), kl, 0.0).sum(axis=-1)


@functools.partial(jax.jit, static_argnames=("coefficient", "discount", "trace_decay"))
def _ppo_targets(
    totals: Float[Array, "B G"],
    old: Float[Array, "B G T"],
    reference: Float[Array, "B G T"],
    values: Float[Array, "B G T"],
    responses: Responses,
    *,
    coefficient: float,
    discount: float,
    trace_decay: float,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"], Float[Array, ""]]:
    """Return whitened advantages and returns of the tokens, and the mean KL of a response."""
    mask = token_mask(responses)
    kl = jnp.where(mask, kl_k1(old, reference), 0.0)
    rewards = token_rewards(totals, kl, responses.lengths, coefficient=coefficient)
    advantages = generalized(rewards, values, mask, discount=discount, trace_decay=trace_decay)
    returns = jnp.where(mask, advantages + values, 0.0)
    return whiten(advantages, mask), returns, kl.sum(axis=-1).mean()


def _minibatches(config: ConfigDict, stage: Stage, step: int) -> Iterator[np.ndarray | None]:
    """Yield the prompts of each update, drawn anew in each epoch; None for all in their order."""
    options = config[stage.name]
    for epoch in range(options.epochs):
        if options.minibatches == 1:
            yield None
            continue
        place = [config.seed, stage.number, step, epoch]
        order = np.random.default_rng(place).permutation(stage.batch_size)
        yield from np.split(order, options.minibatches)
