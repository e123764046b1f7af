"""Train a policy: cold start, then GRPO or PPO, with evaluations before, between and after.

    python -m recallm_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

The same command goes on with a run that was interrupted. On SIGTERM the job finishes and saves the
step that is running, and exits with code 143. A run is a function of its config: what a step
samples depends on the seed, the step and the examples alone.

With `--profile=STEPS` it records a trace of these steps (docs/profiling.md). With `--dry_run` it
checks all that comes before the first step, prints the stages, and ends.

With `--distributed` several processes train one policy, on one host or many. Start all of them with
the same command and a WORKDIR that all of them see (docs/training.md).

One step of GRPO, each part with its function; `run_policy` (training/policy_gradient.py) is the
loop around them:

    1. Draw a batch of prompts.              training/stages.py           batches
    2. Sample G responses of each prompt.    training/rollouts.py         sample
    3. Read their texts and recall spans.    rl/rollout_text.py           read_rollout
    4. Reward each response.                 rl/rollout_text.py           reward_groups
    5. Draw on while groups have no spread.  training/policy_gradient.py  collect
    6. Turn rewards into advantages.         training/batch.py            make_batch
    7. Update the policy.                    rl/learner.py                policy_update
    8. Write the metrics; save the state.    training/saving.py           Saver
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.answering import example
from recallm_jax.answering.console import show
from recallm_jax.answering.load import reader_of
from recallm_jax.config.kept import MAY_CHANGE, keep_config
from recallm_jax.config.load import (
    JobParser,
    check_evaluation_mesh,
    check_training_mesh,
    parse_config,
    path_argument,
)
from recallm_jax.config.rewards import check_rewards
from recallm_jax.evaluation.curves import evaluation_point, write_curves
from recallm_jax.evaluation.loop import Evaluated, evaluate
from recallm_jax.evaluation.summaries import format_table
from recallm_jax.planning.dry_run import stage_works
from recallm_jax.planning.table import works_table
from recallm_jax.policy.context import Context
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime import peers, processes, profiling
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.kept_programs import keep_programs
from recallm_jax.runtime.machine import write_machine
from recallm_jax.runtime.metrics import MetricWriter, SilentWriter
from recallm_jax.runtime.termination import Termination, on_sigterm
from recallm_jax.runtime.wandb_run import wandb_run
from recallm_jax.training.bad_batch import NotFinite, write_bad_batch
from recallm_jax.training.policy_gradient import run_policy
from recallm_jax.training.preflight import check_precision, check_records
from recallm_jax.training.restore import CHECKPOINTS, Saved, placed_state
from recallm_jax.training.saving import open_saver
from recallm_jax.training.sft import run_sft
from recallm_jax.training.stages import (
    SFT_STAGES,
    START,
    Loop,
    Stage,
    batches,
    plan_stages,
    policy_label,
)
from storage.files import Path, open_folder
from storage.sole_writer import sole_writer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.train", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of the run")
    parser.add_argument("--distributed", action="store_true", help="join other processes")
    parser.add_argument(
        "--profile",
        metavar="STEPS",
        default="",
        help="record a trace of steps of the run, such as 3, 3:5 (steps 3 and 4) or grpo:3:5, "
        "into WORKDIR/profile (docs/profiling.md)",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check config, data, weights and mesh, print the stages, and end; nothing is written",
    )
    arguments, config = parse_config(parser, argv)
    check_training_mesh(config)
    check_evaluation_mesh(config)
    check_rewards(config)
    rewarded = [stage for stage in config.stages if stage not in SFT_STAGES]
    if rewarded and not config.data.thinking:
        raise UserError(
            f"config.data.thinking = False with the stage {rewarded[0]}: its reward asks for a "
            "thought; leave thinking True, or let config.stages have sft1 and sft2 only"
        )
    steps = {stage: config[stage].steps for stage in config.stages}
    profiled = profiling.profiled_steps(arguments.profile, steps)
    if arguments.dry_run:
        _dry_run(config)
        return
    workdir = open_folder(arguments.workdir)
    keep_programs(config.compilation_cache, workdir=workdir if arguments.distributed else None)
    with (
        peers.joined(arguments.distributed),
        # Before the weights are loaded, so that a second job is refused at once.
        _only_here(workdir),
        on_sigterm() as termination,
    ):
        train(config, workdir, termination, profiled)


def _only_here(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Return a block in which no other job trains in the folder; the first process holds it."""
    first = processes.number_and_count()[0] == 0
    return sole_writer(workdir) if first else contextlib.nullcontext()


def _dry_run(config: ConfigDict) -> None:
    """Do what comes before the first step, and print what the steps are."""
    check_precision(config)
    context = set_up(config)
    check_records(config, context.tokenizer, plan_stages(config, context))
    works = stage_works(config, list(context.mesh.devices.flat))
    print(
        f"{works_table(works)}\n\n"
        "Prompts, responses, tokens and operations are of a step, at full lengths.\n"
        "Config, data, weights and mesh are in order; nothing was written."
    )


def train(
    config: ConfigDict, workdir: Path, termination: Termination, profiled: Mapping[str, range]
) -> None:
    """Run the stages that the config lists, each from its newest checkpoint on.

    Args:
      profiled: the steps of each stage of which a trace is recorded.

    Raises:
      Terminated: SIGTERM came; the step that was running is done and saved.
    """
    check_precision(config)
    context = set_up(config)
    stages = plan_stages(config, context)
    check_records(config, context.tokenizer, stages)
    remedy = "give the same config, or another --workdir"
    if context.leads:
        keep_config(config, workdir, may_change=MAY_CHANGE, remedy=remedy)
        write_machine(workdir)
    if not (workdir / CHECKPOINTS).exists() and not processes.several(context.mesh):
        _first_look(config, context)

    policy: Policy = context.policy
    with _writer(config, workdir) if context.leads else SilentWriter() as writer:
        output = _Output(workdir, writer, termination, profiled)
        _evaluate(
            config, context, policy, Evaluated(START, START, workdir / "eval" / START), output
        )
        for stage in stages:
            policy = _run_stage(config, context, stage, policy, output)
            label = policy_label(config, stage, stage.steps)
            made_by = Saved(stage, stage.steps).made_by
            evaluated = Evaluated(label, made_by, workdir / "eval" / label)
            _evaluate(config, context, policy, evaluated, output)


def _writer(config: ConfigDict, workdir: Path) -> MetricWriter:
    project = config.tracking.wandb_project
    return MetricWriter(workdir, wandb_run(project, config, workdir) if project else None)


@dataclasses.dataclass(frozen=True)
class _Output:
    """The outputs of all stages of a run, and what ends or records a stage's steps."""

    workdir: Path
    writer: MetricWriter | SilentWriter
    termination: Termination
    profiled: Mapping[str, range]


def _run_stage(
    config: ConfigDict, context: Context, stage: Stage, policy: Policy, output: _Output
) -> Policy:
    """Train a stage's policy from `policy`, which is the reference after the cold start."""
    workdir, termination = output.workdir, output.termination
    with open_saver(config, context, stage, workdir, termination) as saver:
        state, first_step, progress = saver.restore(placed_state(policy, stage, context))
        output.writer.resume(stage.name, first_step)
        data = batches(config, context, stage, progress.drawn)
        steps = _steps(context, stage, first_step, output)
        write = functools.partial(output.writer.write, stage.name)
        loop = Loop(steps, data, progress, write, saver.save)
        with (
            termination.deferred(),
            contextlib.closing(data),
            contextlib.closing(steps),
            _bad_batch_kept(context, workdir),
        ):
            if stage.name in SFT_STAGES:
                state = run_sft(config, context, stage, state, loop)
            else:
                state = run_policy(config, context, stage, state, policy, loop)
            saver.finish()
    return state.policy


def _steps(
    context: Context, stage: Stage, first: int, output: _Output
) -> Generator[int, None, None]:
    """Yield the steps from `first` on; the leading process records a trace of profiled ones."""
    wanted, folder = output.profiled.get(stage.name, range(0)), output.workdir / profiling.FOLDER
    if wanted and wanted[-1] < first:
        context.console.say(f"{stage.name}: the steps of --profile are done; no trace is recorded")
    elif wanted:
        last = f" to {wanted[-1]}" if len(wanted) > 1 else ""
        context.console.say(f"{stage.name}: the trace of step {wanted[0]}{last} goes to {folder}")
    steps = context.console.progress(
        range(first, stage.steps), stage.name, total=stage.steps, done=first
    )
    return profiling.traced(steps, wanted if context.leads else range(0), stage.name, folder)


@contextlib.contextmanager
def _bad_batch_kept(context: Context, workdir: Path) -> Iterator[None]:
    """Write the batch of a step whose metrics are not finite, and say where it is."""
    try:
        yield
    except NotFinite as error:
        path = write_bad_batch(error, workdir, context.tokenizer.decode, context.mesh)
        raise UserError(f"{error}; its batch is in {path} and the .npz beside it") from None


def _first_look(config: ConfigDict, context: Context) -> None:
    """Show a first recall span, before anything is trained."""
    config = config.copy_and_resolve_references()
    limits = config.decoding
    limits.max_new_tokens = min(48, limits.max_new_tokens)
    limits.max_recall_length = max(limits.min_recall_length, min(12, limits.max_recall_length))
    reader = reader_of(config, context, context.policy)
    options = dataclasses.replace(reader.options, quote_first=True)
    found = reader.open(example.DOCUMENT).ask(example.QUESTION, options)
    print("A first recall span, made before this run trains: the span can only copy the document.")
    print(f"\n{example.DOCUMENT}\n{example.QUESTION}\n\n{show(found)}\n", flush=True)


def _evaluate(
    config: ConfigDict, context: Context, policy: Policy, evaluated: Evaluated, output: _Output
) -> None:
    chosen, workdir = config.evaluation, output.workdir
    if evaluated.label not in chosen.policies or not chosen.num_examples:
        return
    summaries = evaluate(config, context, policy, evaluated)
    context.console.say(f"\n{format_table(summaries)}\n")
    if context.leads:
        write_curves(workdir)
        output.writer.track(evaluation_point(evaluated.folder, summaries))


if __name__ == "__main__":
    sys.exit(main())
