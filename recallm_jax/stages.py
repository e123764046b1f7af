"""The training stages: one loop each, from step to step of a learner's state."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.sampling import Sampling, row_keys
from decoding.span_copy import SpanRules, index_prompts
from recallm_jax.errors import UserError
from recallm_jax.evaluation import span_rules
from recallm_jax.inputs import demonstrations, prompts_and_texts, train_records
from recallm_jax.setup_policy import Setup
from rl.advantages import group_relative
from rl.batch import Batch, Responses
from rl.learner import (
    GrpoLoss,
    LearnerState,
    Scoring,
    grpo_update,
    score_in_parts,
    sft_update,
)
from rl.optimizer import Schedule, adamw, train_rows_only
from rl.rewards.categories import SETTINGS
from rl.rewards.composite import Reward
from rl.rollout import Rollout, reward_groups, sample_groups
from tasks.record import Record

SFT_STAGES = ("sft1", "sft2")
# Folded into the sampling keys, so that no two stages of a run draw the same numbers.
KEY_STRIDE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run, built from the config.

    Attributes:
      first_record: training records that the stages before have used.
      batch_size: records of a step.
    """

    name: str
    number: int
    steps: int
    batch_size: int
    first_record: int
    optimizer: optax.GradientTransformation


def plan_stages(config: ConfigDict, setup: Setup) -> list[Stage]:
    """Return the stages that the config lists; each uses records of its own."""
    stages, used = [], 0
    for number, name in enumerate(config.stages):
        section = config[name]
        size = section.batch_size if name in SFT_STAGES else section.prompts_per_step
        optimizer = make_optimizer(config, setup, name)
        stages.append(Stage(name, number, section.steps, size, used, optimizer))
        used += section.steps * size
    return stages


START, COLD_START, GRPO = "start", "cold_start", "grpo"


def policy_label(config: ConfigDict, stage: Stage, step: int) -> str:
    """Return the name under which a stage's policy is evaluated after so many of its steps."""
    if step < stage.steps:
        return f"{stage.name}_step{step}"
    if stage.name not in SFT_STAGES:
        return GRPO
    following = config.stages[stage.number + 1 :]
    return stage.name if following and following[0] in SFT_STAGES else COLD_START


def make_optimizer(config: ConfigDict, setup: Setup, name: str) -> optax.GradientTransformation:
    """Return a stage's optimiser; phase 1 of the cold start trains the four new rows only."""
    section, shared = config[name], config.optimizer
    learning_rate = section.learning_rate if name in SFT_STAGES else shared.learning_rate
    optimizer = adamw(
        Schedule(learning_rate, section.steps, section.warmup_fraction),
        b1=shared.b1,
        b2=shared.b2,
        eps=shared.eps,
        weight_decay=shared.weight_decay,
        clip_norm=shared.clip_norm,
    )
    if name != "sft1":
        return optimizer
    tokenizer = setup.tokenizer
    rows = (
        tokenizer.start_recall_id,
        tokenizer.end_recall_id,
        tokenizer.think_id,
        tokenizer.end_think_id,
    )
    return train_rows_only(optimizer, rows)


def batches(
    config: ConfigDict, setup: Setup, stage: Stage, first_step: int
) -> Generator[list[Record], None, None]:
    """Yield the records of each step from `first_step` on; close it when done."""
    start = stage.first_record + first_step * stage.batch_size
    with contextlib.closing(train_records(config, setup.tokenizer, start)) as records:
        while True:
            yield list(islice(records, stage.batch_size))


Save = Callable[[int, LearnerState], None]
Write = Callable[[int, dict[str, float]], None]


def run_sft(
    config: ConfigDict,
    setup: Setup,
    stage: Stage,
    state: LearnerState,
    *,
    steps: Iterable[int],
    data: Iterator[list[Record]],
    write: Write,
    save: Save,
) -> LearnerState:
    """Fine-tune on demonstrations, under the span mask (arXiv 2604.09494, section 4.1)."""
    rules = span_rules(config, setup.tokenizer)
    scoring = _scoring(config, rules, temperature=1.0)
    num_parts = stage.batch_size // config[stage.name].micro_batch
    for step in steps:
        records = next(data)
        prompts, _ = prompts_and_texts(records, config.data.target_length)
        tokens, lengths = demonstrations(records, config.decoding.max_new_tokens)
        prompts, tokens, lengths = setup.place((prompts, tokens, lengths))
        index = _index_prompts(prompts, rules=rules, num_rows=state.policy.config.vocab_rows)
        state, metrics = sft_update(
            state,
            Responses(prompts, index, tokens, lengths),
            optimizer=stage.optimizer,
            scoring=scoring,
            num_parts=num_parts,
        )
        share = float((lengths > 0).mean())
        write(step, _checked(metrics, stage, step) | {"demonstrated": share})
        save(step + 1, state)
    return state


def run_grpo(
    config: ConfigDict,
    setup: Setup,
    stage: Stage,
    state: LearnerState,
    reference: Policy,
    *,
    steps: Iterable[int],
    data: Iterator[list[Record]],
    write: Write,
    save: Save,
) -> LearnerState:
    """Sample groups, reward them, update (arXiv 2604.09494, section 4.2).

    One update a batch, so the ratio of the surrogate is that of the policy to itself.
    """
    options, rules = config.grpo, span_rules(config, setup.tokenizer)
    scoring = _scoring(config, rules, temperature=options.temperature)
    num_parts = options.prompts_per_step // options.micro_batch
    loss = GrpoLoss(
        clip_low=options.clip_low,
        clip_high=options.clip_high,
        kl_coefficient=options.kl_coefficient,
        importance_cap=options.importance_cap,
    )
    for step in steps:
        prompts, texts = prompts_and_texts(next(data), config.data.target_length)
        numbers = np.array([text.number for text in texts], np.uint32)
        rollout = sample_groups(
            state.policy,
            setup.place(prompts),
            row_keys(config.seed, stage.number * KEY_STRIDE + step, numbers, options.group_size),
            setup.tokenizer.decode,
            rules=rules,
            sampling=Sampling(temperature=options.temperature),
            max_new_tokens=config.decoding.max_new_tokens,
            stop_token=setup.tokenizer.eos_id,
        )
        totals, rewards = reward_groups(
            rollout,
            texts,
            SETTINGS["train"],
            max_new_tokens=config.decoding.max_new_tokens,
            overlong_buffer=options.overlong_buffer,
        )
        reference_log_probs = None
        if options.kl_coefficient:
            reference_log_probs = score_in_parts(
                reference, rollout.responses, scoring=scoring, num_parts=num_parts
            )
        batch = Batch(
            responses=rollout.responses,
            advantages=setup.place(group_relative(jnp.asarray(totals))),
            sampler_log_probs=rollout.sampler_log_probs,
            old_log_probs=None,
            reference_log_probs=reference_log_probs,
        )
        state, metrics = grpo_update(
            state,
            batch,
            optimizer=stage.optimizer,
            scoring=scoring,
            loss=loss,
            num_parts=num_parts,
        )
        write(step, _checked(metrics, stage, step) | rollout_metrics(rollout, totals, rewards))
        save(step + 1, state)
    return state


_index_prompts = jax.jit(index_prompts, static_argnames=("rules", "num_rows"))


def _scoring(config: ConfigDict, rules: SpanRules, *, temperature: float) -> Scoring:
    return Scoring(
        rules=rules,
        budget=config.decoding.max_new_tokens,
        temperature=temperature,
        chunk=config.model.logits_chunk,
    )


def _checked(metrics: dict, stage: Stage, step: int) -> dict[str, float]:
    """Return the metrics as floats; stop a run in which one of them is no number."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} of {stage.name} at step {step} is {value}; start again with a lower "
                "learning rate and another --workdir"
            )
    return values


def rollout_metrics(
    rollout: Rollout, totals: np.ndarray, rewards: list[list[Reward]]
) -> dict[str, float]:
    """Return the means over a step's responses of rewards, lengths and spans."""
    flat = [reward for row in rewards for reward in row]
    completions = [completion for row in rollout.completions for completion in row]

    def mean(values) -> float:
        return float(np.mean(list(values)))

    parts = {
        f"reward_{name}": mean(getattr(reward, name) for reward in flat)
        for name in ("format", "answer", "retrieval", "overlap", "usage", "density")
    }
    return {
        "reward": float(totals.mean()),
        # Groups whose rewards are all equal teach nothing.
        "groups_with_spread": mean(row.min() < row.max() for row in totals),
        "exact_match": mean(reward.exact_match for reward in flat),
        "response_tokens": mean(completion.num_tokens for completion in completions),
        "finished": mean(completion.finished for completion in completions),
        "spans": mean(len(completion.spans) for completion in completions),
        **parts,
    }
