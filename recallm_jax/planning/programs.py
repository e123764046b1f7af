"""The programs that a run compiles, in order, and the arrays in memory while each runs.

These are the jitted functions that `train` and `evaluate` call, with descriptions instead of
arrays: the gradient of the cold start and its application; for GRPO or PPO the reshard of the
policy for decoding, `decode`, the scores of the reference and the old policy, the gradient and its
application; and `decode` at each length of the evaluation. Scores and gradients have the largest
size of rows, that of full responses; a run compiles smaller ones as well (`rl/packing.py`). Small
programs are left out: the index of demonstrations, the reading of spans, the advantages, the order
of prompts.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from decoding.decode_loop import Limits
from decoding.rollout import Rollout
from recallm_jax.models.transformer import Transformer
from recallm_jax.planning import abstract, flops
from recallm_jax.planning.flops import Groups, Work
from recallm_jax.planning.lengths import full
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import decoding_mode
from recallm_jax.policy.rollout_layout import reshard, rollout_moves
from recallm_jax.training.policy_stage import PolicyStage, policy_stage
from recallm_jax.training.sft import sft_options, sft_sizes
from recallm_jax.training.stages import SFT_STAGES, Stage, plan_stages
from rl.learner import (
    LearnerState,
    apply_gradient,
    changed_part,
    policy_gradient,
    score_parts,
    sft_gradient,
    trained_of,
)
from rl.micro_batches import Parts as MicroBatches
from rl.micro_batches import shardings_of
from rl.optimizer import vocabulary_matrices

# Parts of the memory: the columns of the table.
PARAMETERS, OPTIMISER, OTHERS, BATCH = "parameters", "optimiser", "other policies", "batch"
ROLLOUT, GRADIENT = "rollout parameters", "gradient"
Parts = Mapping[str, Any]
# Those of a program that computes nothing for tokens.
NO_GROUPS = Groups(0, 0, 0, full(0))


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    Attributes:
      name: such as "grpo.rollout", or "evaluation.4096".
      kind: "update", "apply", "score", "reshard" or "decode".
      lower: traces the program for the context's mesh.
      arguments: its arguments, by part; trees of `ShapeDtypeStruct` with shardings.
      resident: other arrays that the job keeps while the program runs, by part.
      groups: the prompts and responses that it computes, at their full lengths.
      count: returns its arithmetic for groups, on all chips.
      rounds: the most rounds of its loop of unknown length: a response's tokens if it decodes, and
        micro-batches if it updates or scores.
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
    for program in _programs(config, context):
        yield _counted_once(program)


def _counted_once(program: Program) -> Program:
    """Return a program with each array in the first part only that holds it.

    Policies share their frozen arrays, and decoding shares those that already lie as it needs them.
    """
    seen: set[int] = set()

    def unseen(leaf: Any) -> Any:
        again = id(leaf) in seen
        seen.add(id(leaf))
        return None if again else leaf

    arguments = jax.tree.map(unseen, dict(program.arguments))
    resident = jax.tree.map(unseen, dict(program.resident))
    return dataclasses.replace(program, arguments=arguments, resident=resident)


def _programs(config: ConfigDict, context: Context) -> Iterator[Program]:
    start = context.policy
    others: tuple[Any, ...] = ()
    for stage in plan_stages(config, context):
        state = abstract.learner_state(start, stage, context)
        # The policy before the stage is the reference of the KL penalty; `Context` holds the first.
        others = (start,) if stage.number == 0 else (start, _another(start))
        if stage.name in SFT_STAGES:
            yield from _sft(config, context, stage, state, others)
        else:
            yield from _policy_gradient(policy_stage(config, context, stage), state, others)
    if others:
        yield from _evaluations(config, context, _another(start), (start,))
    else:
        yield from _evaluations(config, context, start, ())


def _another(policy: Transformer) -> Transformer:
    """Describe another policy with the same frozen arrays."""
    return policy.with_trained(abstract.copied(policy.trained()))


def _groups(rollout: Rollout) -> Groups:
    """Return the groups of a rollout, at full lengths."""
    prompts, group_size, new_tokens = rollout.tokens.shape
    return Groups(prompts, group_size, rollout.prompts.tokens.shape[1], full(new_tokens))


def _sft(
    config: ConfigDict, context: Context, stage: Stage, state: LearnerState, others: tuple[Any, ...]
) -> Iterator[Program]:
    shown = abstract.shown(config, context, stage)
    options, scoring = sft_options(config, context, stage), dict[str, Any]()
    trained = trained_of(state)
    if options["matrices_only"]:
        trained = vocabulary_matrices(trained)
    scoring |= {"scoring": options.pop("scoring"), "shardings": shardings_of(trained)}
    micro_batch = config[stage.name].micro_batch
    parts = abstract.parts(context, shown, sft_sizes(config).chosen[-1], micro_batch)
    gradient = abstract.copied(trained)
    total = gradient if parts.num_parts > 1 else None
    lower = sft_gradient.lower
    yield Program(
        f"{stage.name}.update",
        "update",
        functools.partial(lower, trained, state.policy, shown, parts, total, **scoring),
        {PARAMETERS: state.policy, GRADIENT: total, BATCH: (shown, parts)},
        {OPTIMISER: _of_state(state)[OPTIMISER], OTHERS: others},
        _groups(shown),
        functools.partial(flops.update_flops, context.policy.config),
        rounds=_rounds(parts),
    )
    beside = {OTHERS: others, BATCH: shown}
    yield _application(stage.name, state, gradient, beside, options)


def _rounds(parts: MicroBatches) -> int:
    """Return how often the loop over micro-batches runs; one alone needs no loop."""
    return parts.num_parts if parts.num_parts > 1 else 0


def _application(
    name: str, state: LearnerState, gradient: Any, beside: Parts, options: Mapping, *, runs: int = 1
) -> Program:
    changed = changed_part(state)
    options = {**options, "shardings": shardings_of(changed)}
    return Program(
        f"{name}.apply",
        "apply",
        functools.partial(apply_gradient.lower, changed, gradient, **options),
        {**_of_state(state), GRADIENT: gradient},
        beside,
        NO_GROUPS,
        _no_work,
        runs=runs,
    )


def _no_work(groups: Groups) -> Work:
    del groups
    return Work(0.0, 0.0)


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
    micro_batch, scoring = options.micro_batch, {"scoring": run.scoring}
    rows = abstract.parts(run.context, rollout, run.sizes.chosen[-1], micro_batch)
    groups, count = _groups(rollout), functools.partial(flops.score_flops, sizes)
    if options.kl_coefficient:
        found = abstract.scores(run.context, rollout, 1) if rows.num_parts > 1 else None
        yield Program(
            f"{name}.reference",
            "score",
            functools.partial(score_parts.lower, others[-1], None, read, rows, found, **scoring),
            {OTHERS: others[-1], BATCH: (read, rows, found)},
            {**held, OTHERS: others[:-1], BATCH: rollout.log_probs},
            groups,
            count,
            rounds=_rounds(rows),
        )
    if state.critic is not None or not run.updates_once:
        given, count_found = (state.policy, state.critic), 2 if state.critic is not None else 1
        found = abstract.scores(run.context, rollout, count_found) if rows.num_parts > 1 else None
        given_besides = (rollout.log_probs, batch.reference_log_probs)
        yield Program(
            f"{name}.old",
            "score",
            functools.partial(score_parts.lower, *given, read, rows, found, **scoring),
            {PARAMETERS: given, BATCH: (read, rows, found)},
            {**held, PARAMETERS: (), BATCH: given_besides},
            groups,
            count,
            rounds=_rounds(rows),
        )
    part = abstract.minibatch(run, batch)
    rows = abstract.parts(run.context, part.rollout, run.sizes.chosen[-1], micro_batch)
    trained, models = trained_of(state), (state.policy, state.critic)
    gradient = abstract.copied(trained)
    total = gradient if rows.num_parts > 1 else None
    losses = {**scoring, "loss": run.loss, "shardings": shardings_of(trained)}
    whole = batch if part is not batch else ()
    runs = options.minibatches * options.epochs
    yield Program(
        f"{name}.update",
        "update",
        functools.partial(policy_gradient.lower, trained, models, part, rows, total, **losses),
        {PARAMETERS: models, GRADIENT: total, BATCH: (part, rows)},
        {OPTIMISER: held[OPTIMISER], OTHERS: others, BATCH: whole},
        _groups(part.rollout),
        functools.partial(flops.update_flops, sizes),
        rounds=_rounds(rows),
        runs=runs,
    )
    beside = {OTHERS: others, BATCH: (part, whole)}
    yield _application(name, state, gradient, beside, {"optimizer": run.stage.optimizer}, runs=runs)


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
    limits = Limits(mode.rules, config.decoding.max_new_tokens, context.tokenizer.end_ids)
    for length in sorted(config.evaluation.lengths):
        sizes = abstract.BatchSizes(config.evaluation.batch_size, length, mode.group_size)
        decoding = abstract.decoding(context, policy, sizes, mode.sampling, limits)
        yield _decode(f"evaluation.{length}", decoding, held)


def _reshard(name: str, policy: Any, held: Parts) -> Program:
    moves = rollout_moves(policy)
    return Program(
        f"{name}.reshard",
        "reshard",
        functools.partial(reshard.lower, moves.arrays, layouts=moves.layouts),
        {PARAMETERS: moves.arrays},
        held,
        NO_GROUPS,
        _no_work,
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
