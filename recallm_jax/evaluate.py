"""Evaluate policies of a run on the validation tasks of a config, offline.

    python -m recallm_jax.evaluate --config=configs/quickstart.py --workdir=runs/quickstart

The job evaluates the run's newest checkpoint, and the label says which one it is: "cold_start",
"grpo", or "grpo_step20" while the run goes on. `--label=start` evaluates the starting weights. Rows
go to WORKDIR/eval/LABEL, and an interrupted evaluation goes on where it stopped. `--rescore` loads
no model: it computes the rewards of saved completions again.

`--checkpoints=all`, or a list such as `start,sft2/10,grpo/20`, compares policies. Evaluations with
other settings go to a folder of their own, `--results=FOLDER`, which `report` and `compare` read
like a run's. With `--shard=i/n` this process answers every n-th prompt from the i-th on. Shards
know nothing of each other; the last one to end joins them, or `--merge` does. docs/evaluation.md
says more.
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePath

import jax
from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.config.kept import keep_reward
from recallm_jax.config.load import JobParser, check_evaluation_mesh, parse_config, path_argument
from recallm_jax.config.rewards import check_rewards, evaluation_rewards
from recallm_jax.data.records import check_data
from recallm_jax.evaluation.complete import complete_summaries
from recallm_jax.evaluation.curves import write_curves
from recallm_jax.evaluation.loop import Evaluated, evaluate
from recallm_jax.evaluation.merge import merge
from recallm_jax.evaluation.rescore import rescore
from recallm_jax.evaluation.shards import Shard, parse_shard
from recallm_jax.evaluation.summaries import Row, format_table
from recallm_jax.policy.context import Context
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime import peers, processes
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.kept_programs import keep_programs
from recallm_jax.training.restore import (
    START_WEIGHTS,
    Saved,
    hold_to_run,
    restore_policy,
    restore_saved,
    saved_checkpoints,
)
from recallm_jax.training.stages import START, policy_label
from storage.files import Path, open_folder

ALL = "all"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.evaluate", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of the run")
    parser.add_argument("--label", default="", help="name of the evaluation's folder")
    parser.add_argument(
        "--results",
        type=path_argument,
        help="folder that gets eval/LABEL, such as WORKDIR/ruler; WORKDIR",
    )
    parser.add_argument(
        "--checkpoints",
        default="",
        help="policies to compare: all, or some such as start,sft2/10,grpo/20",
    )
    parser.add_argument("--rescore", action="store_true", help="score saved rows, without a model")
    parser.add_argument("--shard", default="", help="answer every n-th prompt only: i/n")
    parser.add_argument("--merge", action="store_true", help="join shards, without a model")
    parser.add_argument("--distributed", action="store_true", help="join other processes")
    arguments, config = parse_config(parser, argv)
    check_rewards(config)
    workdir, label = open_folder(arguments.workdir), arguments.label
    results = (open_folder(arguments.results) if arguments.results else workdir) / "eval"
    if label != PurePath(label).name or label == "..":
        raise UserError(f"--label={label} must be the name of a folder, without a path")
    if arguments.rescore or arguments.merge:
        name = "rescore" if arguments.rescore else "merge"
        if not label:
            raise UserError(f"--{name} needs --label: the name of a folder in {results}")
        for other in ("merge", "checkpoints", "shard", "distributed"):
            if other != name and getattr(arguments, other):
                raise UserError(
                    f"--{name} works on the saved rows of one label, in one process; leave "
                    f"--{other} out"
                )
        print(format_table(_saved_rows(config, results / label, arguments)))
        write_curves(results.parent)
        return
    if label and arguments.checkpoints:
        raise UserError(
            f"--label={label} names one policy; leave it out, as --checkpoints names its own"
        )
    if not config.evaluation.num_examples:
        raise UserError(
            "config.evaluation.num_examples = 0 leaves nothing to evaluate; give at least 1"
        )
    check_evaluation_mesh(config)
    shard = parse_shard(arguments.shard) if arguments.shard else None
    keep_programs(config.compilation_cache, workdir=workdir if arguments.distributed else None)
    with peers.joined(arguments.distributed):
        folders = _Folders(workdir, results)
        summaries, failures = _evaluate(config, folders, shard, label, arguments.checkpoints)
        first = processes.number_and_count()[0] == 0
    # After the block, so that the failure of one process does not end the others.
    if summaries:
        print(f"\n{format_table(summaries)}")
    if summaries and first:
        write_curves(results.parent)
    if failures:
        raise UserError(f"{len(failures)} not evaluated: {'; '.join(failures)}")


@dataclasses.dataclass(frozen=True)
class _Folders:
    """The folder of the run, and the folder that has one for each label."""

    run: Path
    results: Path


def _saved_rows(config: ConfigDict, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Score saved rows again, or join those of shards; this uses no device."""
    if arguments.rescore:
        summaries = rescore(folder, evaluation_rewards(config))
        keep_reward(config, folder)
        return summaries
    summaries, missing = merge(folder, config)
    if missing:
        raise UserError(f"{folder} is not complete: {'; '.join(missing)}; run its shards again")
    return summaries


def _evaluate(
    config: ConfigDict, folders: _Folders, shard: Shard | None, label: str, checkpoints: str
) -> tuple[list[Row], list[str]]:
    """Evaluate the policies asked for; return the summaries, and a line for each that failed."""
    devices = None
    if shard is not None or processes.each_has_room(math.prod(config.mesh.values())):
        devices = jax.local_devices()
        shard = shard or Shard(*processes.number_and_count())
    context = set_up(config, devices)
    check_data(config, context.tokenizer)
    if checkpoints:
        return _several(config, context, folders, shard, checkpoints)
    policy: Policy = context.policy
    made_by = START
    if label == START:
        hold_to_run(config, folders.run, fields=START_WEIGHTS)
    else:
        policy, stage, step = restore_policy(config, context, folders.run)
        label = label or policy_label(config, stage, step)
        made_by = Saved(stage, step).made_by
    evaluated = Evaluated(label, made_by, folders.results / label)
    return _one(config, context, policy, evaluated, shard), []


def _one(
    config: ConfigDict,
    context: Context,
    policy: Policy,
    evaluated: Evaluated,
    shard: Shard | None,
) -> list[Row]:
    """Evaluate a policy; return its summaries, or none if some of its shards are missing."""
    summaries = evaluate(config, context, policy, evaluated, shard)
    if shard is None:
        return summaries
    summaries, missing = merge(evaluated.folder, config, by=f".{shard.name}")
    if missing:
        context.console.say(
            f"{evaluated.label}: shard {shard} is done; the others: {'; '.join(missing)}"
        )
    return summaries


def _several(
    config: ConfigDict, context: Context, folders: _Folders, shard: Shard | None, wanted: str
) -> tuple[list[Row], list[str]]:
    """Evaluate policies of a run one after the other; say which of them can't be evaluated."""
    found: list[Row] = []
    failures = []
    for name, evaluated, load in _policies(config, context, folders, wanted):
        try:
            done = complete_summaries(config, context, evaluated)
            if done is not None:
                context.console.say(f"{evaluated.label}: all rows are there")
            else:
                done = _one(config, context, load(), evaluated, shard)
        except UserError as error:
            context.console.say(f"{evaluated.label}: not evaluated: {error}")
            failures.append(f"{name}: {error}")
            continue
        found += done
    order = {(row["task"], row["mode"]): number for number, row in reversed([*enumerate(found)])}
    return sorted(found, key=lambda row: order[row["task"], row["mode"]]), failures


def _policies(
    config: ConfigDict, context: Context, folders: _Folders, wanted: str
) -> list[tuple[str, Evaluated, Callable[[], Policy]]]:
    """Return the name, the evaluation and the loader of each policy that `--checkpoints` asks for.

    Raises:
      UserError: a name has no checkpoint, or the run has none at all.
    """
    workdir, results = folders.run, folders.results

    def start() -> Policy:
        hold_to_run(config, workdir, fields=START_WEIGHTS)
        return context.policy

    known: dict[str, tuple[Evaluated, Callable[[], Policy]]] = {
        START: (Evaluated(START, START, results / START), start)
    }
    for saved in saved_checkpoints(config, context, workdir):
        label = policy_label(config, saved.stage, saved.step)
        load = functools.partial(restore_saved, config, context, workdir, saved)
        known[saved.name] = (Evaluated(label, saved.made_by, results / label), load)
    names = [name for name in known if name != START] if wanted == ALL else wanted.split(",")
    for name in names:
        if name not in known:
            raise UserError(
                f"--checkpoints: {workdir} has no checkpoint {name!r}; it has {', '.join(known)}"
            )
    if not names:
        raise UserError(f"{workdir} holds no checkpoint; train first, or name another --workdir")
    return [(name, *known[name]) for name in dict.fromkeys(names)]


if __name__ == "__main__":
    sys.exit(main())
