"""The programs that a run compiles, in order, and the arrays in memory while each runs.

These are the jitted functions that `train` and `evaluate` call, with descriptions instead of
arrays: `sft_update`; for GRPO or PPO the reshard of the policy for decoding, `decode`, the scores
of the reference and the old policy, and `policy_update`; and `decode` at each length of the
evaluation. Small programs are left out: the index of demonstrations, the reading of spans, the
advantages.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from decoding.decode_loop import Limits
from decoding.rollout import Rollout
from recallm_jax.planning import abstract, flops
from recallm_jax.planning.flops import Groups, Work
from recallm_jax.planning.lengths import full
from recallm_jax.policy import partitioning
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import decoding_mode
from recallm_jax.training.policy_stage import PolicyStage, policy_stage
from recallm_jax.training.sft import sft_options
from recallm_jax.training.stages import SFT_STAGES, Stage, plan_stages
from rl.learner import (
    LearnerState,
    policy_update,
    score_and_value_in_parts,
    score_in_parts,
    sft_update,
)

# Parts of the memory: the columns of the table.
PARAMETERS, OPTIMISER, OTHERS, BATCH = "parameters", "optimiser", "other policies", "batch"
ROLLOUT = "rollout parameters"
Parts = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    Attributes:
      name: such as "grpo.rollout", or "evaluation.4096".
      kind: "update", "score", "reshard" or "decode".
      lower: traces the program for the context's mesh.
      arguments: its arguments, by part; trees of `ShapeDtypeStruct` with shardings.
      resident: other arrays that the job keeps while the program runs, by part.
      groups: the prompts and responses that it computes, at their full lengths.
      count: returns its arithmetic for groups, on all chips.
      rounds: the most rounds of its loop of unknown length: a response's tokens, if it decodes.
      caches: the keys and values of a program that decodes, which are temporaries of it.
      runs: the number of runs in a step, or in a batch of the evaluation.
    """

    name: str
    kind: str
    lower: Callable[[], Any]
    arguments: Parts
    resident: Parts
    groups: Groups
    count: Callable[[Groups], Work]
    rounds: int = 0
    caches: Any = None
    runs: int = 1

    @property
    def work(self) -> Work:
        """Its arithmetic at full lengths, on all chips."""
        return self.count(self.groups)


def programs(config: ConfigDict, context: Context) -> Iterator[Program]:
    """Yield the programs of the config's stages, then the programs of its evaluation."""
    start = context.policy
    others: tuple[Any, ...] = ()
    for stage in plan_stages(config, context):
        state = abstract.learner_state(start, stage, context)
        # The policy before the stage is the reference of the KL penalty; `Context` holds the first.
        others = (start,) if stage.number == 0 else (start, start)
        if stage.name in SFT_STAGES:
            yield _sft(config, context, stage, state, others)
        else:
            yield from _policy_gradient(policy_stage(config, context, stage), state, others)
    yield from _evaluations(config, context, start, (start,) if others else ())


def _groups(rollout: Rollout) -> Groups:
    """Return the groups of a rollout, at full lengths."""
    prompts, group_size, new_tokens = rollout.tokens.shape
    return Groups(prompts, group_size, rollout.prompts.tokens.shape[1], full(new_tokens))


def _sft(
    config: ConfigDict, context: Context, stage: Stage, state: LearnerState, others: tuple[Any, ...]
) -> Program:
    shown = abstract.shown(config, context, stage)
    options = sft_options(config, context, stage)
    return Program(
        f"{stage.name}.update",
        "update",
        functools.partial(sft_update.lower, state, shown, **options),
        _of_state(state) | {BATCH: shown},
        {OTHERS: others},
        _groups(shown),
        functools.partial(flops.update_flops, context.policy.config),
    )


def _of_state(state: LearnerState) -> dict[str, Any]:
    return {
        PARAMETERS: (state.policy, state.critic),
        OPTIMISER: (state.optimizer_state, state.step),
    }


def _policy_gradient(
    run: PolicyStage, state: LearnerState, others: tuple[Any, ...]
) -> Iterator[Program]:
    name, options, sizes = run.stage.name, run.options, run.context.policy.config
    held = _of_state(state) | {OTHERS: others}
    parts = options.rollout_parts
    size = abstract.BatchSizes(run.stage.batch_size // parts, run.prompt_length, options.group_size)
    decoding = abstract.decoding(run.context, state.policy, size, run.sampling, run.limits)
    rollout = abstract.sampled(run, decoding)
    batch = abstract.batch(run, state, others[-1], rollout)
    yield _reshard(name, state.policy, held)
    # The last part is decoded while the rollouts of the parts before it are in memory.
    before = {**held, BATCH: rollout if parts > 1 else ()}
    yield _decode(f"{name}.rollout", decoding, before, runs=parts)
    # The scores of other policies do not need the sampler's.
    read = dataclasses.replace(rollout, log_probs=None)
    groups, count = _groups(rollout), functools.partial(flops.score_flops, sizes)
    if options.kl_coefficient:
        yield Program(
            f"{name}.reference",
            "score",
            functools.partial(score_in_parts.lower, others[-1], rollout, **run.score_options),
            {OTHERS: others[-1], BATCH: read},
            {**held, OTHERS: others[:-1], BATCH: rollout.log_probs},
            groups,
            count,
        )
    if state.critic is not None or not run.updates_once:
        given: tuple[Any, ...] = (state.policy,)
        score = score_in_parts
        if state.critic is not None:
            given, score = (state.policy, state.critic), score_and_value_in_parts
        beside = (rollout.log_probs, batch.reference_log_probs)
        yield Program(
            f"{name}.old",
            "score",
            functools.partial(score.lower, *given, rollout, **run.score_options),
            {PARAMETERS: given, BATCH: read},
            {**held, PARAMETERS: (), BATCH: beside},
            groups,
            count,
        )
    part = abstract.minibatch(run, batch)
    yield Program(
        f"{name}.update",
        "update",
        functools.partial(policy_update.lower, state, part, **run.update_options),
        {**_of_state(state), BATCH: part},
        {OTHERS: others, BATCH: batch if part is not batch else ()},
        _groups(part.rollout),
        functools.partial(flops.update_flops, sizes),
        runs=options.minibatches * options.epochs,
    )


def _evaluations(
    config: ConfigDict, context: Context, policy: Any, others: tuple[Any, ...]
) -> Iterator[Program]:
    """Yield the programs of an evaluation, in its mode with the most responses to a prompt.

    On a mesh that does not split prompts the same groups are decoded in slots
    (`decoding/scheduler.py`).
    """
    held = {PARAMETERS: policy, OTHERS: others}
    yield _reshard("evaluation", policy, held)
    modes = [decoding_mode(name, config, context.tokenizer) for name in config.evaluation.modes]
    mode = max(modes, key=lambda mode: (mode.group_size, mode.rules.constrained))
    limits = Limits(mode.rules, config.decoding.max_new_tokens, (context.tokenizer.eos_id,))
    for length in sorted(config.evaluation.lengths):
        sizes = abstract.BatchSizes(config.evaluation.batch_size, length, mode.group_size)
        decoding = abstract.decoding(context, policy, sizes, mode.sampling, limits)
        yield _decode(f"evaluation.{length}", decoding, held)


def _reshard(name: str, policy: Any, held: Parts) -> Program:
    return Program(
        f"{name}.reshard",
        "reshard",
        functools.partial(jax.jit(partitioning.as_rollout).lower, policy),
        {PARAMETERS: policy},
        {**held, PARAMETERS: ()},
        Groups(0, 0, 0, full(0)),
        lambda groups: Work(0.0, 0.0),
    )


def _decode(name: str, decoding: abstract.Decoding, held: Parts, *, runs: int = 1) -> Program:
    return Program(
        name,
        "decode",
        decoding.lower,
        {ROLLOUT: decoding.policy, BATCH: (decoding.prompts, decoding.keys)},
        held,
        _groups(decoding.rollout()),
        functools.partial(flops.rollout_flops, decoding.policy.config),
        rounds=decoding.limits.max_new_tokens,
        caches=decoding.caches(),
        runs=runs,
    )
