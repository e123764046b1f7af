"""The programs that a run compiles, in their order, and what is in memory while each runs.

They are the jitted functions that `train` and `evaluate` call, given shapes instead of arrays:
`sft_update`, then for each step of GRPO or PPO the reshard of the policy for decoding, `decode`,
the scores of the reference and the old policy, and `policy_update`; and `decode` at each length of
the evaluation. What runs beside these is small: the index of demonstrations, reading spans back,
advantages.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from decoding.decode_loop import Limits, decode_program
from decoding.sampling import Sampling
from decoding.span_copy import SpanRules
from recallm_jax.planning import abstract, flops
from recallm_jax.planning.flops import Work
from recallm_jax.policy import partitioning
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import sampling_of, span_rules
from recallm_jax.training.policy_gradient import policy_loss
from recallm_jax.training.stages import SFT_STAGES, Stage, plan_stages, scoring_of, training_rules
from rl.learner import (
    LearnerState,
    policy_update,
    score_and_value_in_parts,
    score_in_parts,
    sft_update,
)

# Parts of the memory, as the table has them.
PARAMETERS, OPTIMISER, OTHERS, BATCH = "parameters", "optimiser", "other policies", "batch"
ROLLOUT = "rollout parameters"
Parts = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    Attributes:
      name: such as "grpo.rollout", or "evaluation.4096".
      kind: "update", "score", "reshard" or "decode".
      lower: traces it for the context's mesh.
      arguments: what it is given, by part; trees of `ShapeDtypeStruct` with shardings.
      resident: what else the job holds while it runs, by part.
      work: its arithmetic, on all chips.
      rounds: of its loop of unknown length, at most: the tokens of a response where it decodes.
      caches: keys and values, which are temporaries of a program that decodes.
      runs: how often a step, or a batch of the evaluation, runs it.
    """

    name: str
    kind: str
    lower: Callable[[], Any]
    arguments: Parts
    resident: Parts
    work: Work
    rounds: int = 0
    caches: Any = None
    runs: int = 1


def programs(config: ConfigDict, context: Context) -> Iterator[Program]:
    """Yield the programs of the config's stages, then those of its evaluation."""
    start = context.policy
    others: tuple[Any, ...] = ()
    for stage in plan_stages(config, context):
        state = abstract.learner_state(start, stage, context)
        # The policy before the stage is the reference of the KL penalty; `Context` holds the first.
        others = (start,) if stage.number == 0 else (start, start)
        if stage.name in SFT_STAGES:
            yield _sft(config, context, stage, state, others)
        else:
            yield from _policy_gradient(config, context, stage, state, others)
    yield from _evaluations(config, context, start, (start,) if others else ())


def _sizes(config: ConfigDict, *, prompts: int, group_size: int, length: int) -> dict[str, int]:
    return {
        "prompts": prompts,
        "group_size": group_size,
        "length": length,
        "new_tokens": config.decoding.max_new_tokens,
    }


def _sft(
    config: ConfigDict, context: Context, stage: Stage, state: LearnerState, others: tuple[Any, ...]
) -> Program:
    rules = training_rules(config, context)
    sizes = _sizes(config, prompts=stage.batch_size, group_size=1, length=config.data.target_length)
    batch = abstract.rollout(context, rules, **_of_batch(sizes), sampled=False)
    lower = functools.partial(
        sft_update.lower,
        state,
        batch,
        optimizer=stage.optimizer,
        scoring=scoring_of(config, rules, temperature=1.0),
        num_parts=stage.batch_size // config[stage.name].micro_batch,
    )
    work = flops.update_flops(context.policy.config, **sizes)
    return Program(
        f"{stage.name}.update",
        "update",
        lower,
        _of_state(state) | {BATCH: batch},
        {OTHERS: others},
        work,
    )


def _of_batch(sizes: Mapping[str, int]) -> dict[str, int]:
    return {"count" if name == "prompts" else name: size for name, size in sizes.items()}


def _of_state(state: LearnerState) -> dict[str, Any]:
    return {
        PARAMETERS: (state.policy, state.critic),
        OPTIMISER: (state.optimizer_state, state.step),
    }


def _policy_gradient(
    config: ConfigDict, context: Context, stage: Stage, state: LearnerState, others: tuple[Any, ...]
) -> Iterator[Program]:
    options = config[stage.name]
    rules = training_rules(config, context)
    sizes = _sizes(
        config,
        prompts=stage.batch_size,
        group_size=options.group_size,
        length=config.data.target_length,
    )
    held = _of_state(state) | {OTHERS: others}
    whole = abstract.rollout(context, rules, **_of_batch(sizes), sampled=True)
    batch = abstract.batch(context, whole, options, critic=state.critic is not None)
    parts = options.rollout_parts
    yield _reshard(stage.name, state.policy, held)
    # What the parts before have sampled lies beside the last one's rollout.
    sampled = whole if parts > 1 else ()
    yield _decode(
        f"{stage.name}.rollout",
        context,
        state.policy,
        sizes | {"prompts": sizes["prompts"] // parts},
        rules,
        Sampling(temperature=options.temperature),
        {**held, BATCH: sampled},
        runs=parts,
    )
    scoring = scoring_of(config, rules, temperature=options.temperature)
    in_parts = {"scoring": scoring, "num_parts": stage.batch_size // options.micro_batch}
    # A program that scores does not read the sampler's scores.
    read = dataclasses.replace(whole, log_probs=None)
    work = flops.score_flops(context.policy.config, **sizes)
    if options.kl_coefficient:
        yield Program(
            f"{stage.name}.reference",
            "score",
            functools.partial(score_in_parts.lower, others[-1], whole, **in_parts),
            {OTHERS: others[-1], BATCH: read},
            {**held, OTHERS: others[:-1], BATCH: whole.log_probs},
            work,
        )
    updates = options.minibatches
    if state.critic is not None or updates * options.epochs > 1:
        given: tuple[Any, ...] = (state.policy,)
        score = score_in_parts
        if state.critic is not None:
            given, score = (state.policy, state.critic), score_and_value_in_parts
        beside = (whole.log_probs, batch.reference_log_probs)
        yield Program(
            f"{stage.name}.old",
            "score",
            functools.partial(score.lower, *given, whole, **in_parts),
            {PARAMETERS: given, BATCH: read},
            {**held, PARAMETERS: (), BATCH: beside},
            work,
        )
    size = stage.batch_size // updates
    part = batch if updates == 1 else abstract.part(batch, size)
    yield Program(
        f"{stage.name}.update",
        "update",
        functools.partial(
            policy_update.lower,
            state,
            part,
            optimizer=stage.optimizer,
            scoring=scoring,
            loss=policy_loss(config, stage),
            num_parts=size // options.micro_batch,
        ),
        {**_of_state(state), BATCH: part},
        {OTHERS: others, BATCH: batch if updates > 1 else ()},
        flops.update_flops(context.policy.config, **{**sizes, "prompts": size}),
        runs=updates * options.epochs,
    )


def _evaluations(
    config: ConfigDict, context: Context, policy: Any, others: tuple[Any, ...]
) -> Iterator[Program]:
    """Yield the programs of an evaluation, in the mode with the most responses a prompt.

    A mesh that does not split prompts decodes the same groups in slots (decoding/scheduler.py).
    """
    held = {PARAMETERS: policy, OTHERS: others}
    yield _reshard("evaluation", policy, held)
    modes = [sampling_of(mode, config) for mode in config.evaluation.modes]
    sampling, constrained, group_size = max(modes, key=lambda mode: (mode[2], mode[1]))
    for length in sorted(config.evaluation.lengths):
        yield _decode(
            f"evaluation.{length}",
            context,
            policy,
            _sizes(
                config,
                prompts=config.evaluation.batch_size,
                group_size=group_size,
                length=length,
            ),
            span_rules(config, context.tokenizer, constrained=constrained),
            sampling,
            held,
        )


def _reshard(name: str, policy: Any, held: Parts) -> Program:
    return Program(
        f"{name}.reshard",
        "reshard",
        functools.partial(jax.jit(partitioning.as_rollout).lower, policy),
        {PARAMETERS: policy},
        {**held, PARAMETERS: ()},
        Work(0.0, 0.0),
    )


def _decode(
    name: str,
    context: Context,
    policy: Any,
    sizes: Mapping[str, int],
    rules: SpanRules,
    sampling: Sampling,
    held: Parts,
    *,
    runs: int = 1,
) -> Program:
    moved = partitioning.for_rollout(policy)
    prompts = abstract.prompts(context, sizes["prompts"], sizes["length"])
    keys = abstract.keys(context, sizes["prompts"], sizes["group_size"])
    limits = Limits(rules, sizes["new_tokens"], stop_tokens=(context.tokenizer.eos_id,))
    return Program(
        name,
        "decode",
        functools.partial(decode_program.lower, moved, prompts, keys, sampling, limits),
        {ROLLOUT: moved, BATCH: (prompts, keys)},
        held,
        flops.rollout_flops(context.policy.config, **sizes),
        rounds=sizes["new_tokens"],
        caches=abstract.caches(moved, context, **_of_batch(sizes)),
        runs=runs,
    )
