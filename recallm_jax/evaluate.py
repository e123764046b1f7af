"""Evaluate a policy on the validation tasks of a config, offline.

    python -m recallm_jax.evaluate --config=configs/quickstart.py --workdir=runs/quickstart

The policy is that of the run's newest checkpoint, and the label says which: "cold_start", "grpo",
or "grpo_step20" while the run goes on. With `--label=start` it is the starting weights. Rows go to
WORKDIR/eval/LABEL, and an interrupted evaluation goes on where it stopped. With `--rescore` no
model is loaded: saved completions get their rewards anew.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from decoding.policy import Policy
from recallm_jax.config import JobParser, parse_config
from recallm_jax.errors import UserError, run_job
from recallm_jax.evaluation import evaluate, rescore
from recallm_jax.metric_writer import progress, say
from recallm_jax.restore_policy import START_WEIGHTS, hold_to_run, restore_policy
from recallm_jax.setup_policy import set_up
from recallm_jax.stages import START, policy_label
from recallm_jax.summaries import format_table
from tasks.files import open_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.evaluate", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--label", default="", help="name of the evaluation's folder")
    parser.add_argument("--rescore", action="store_true", help="score saved rows, without a model")
    arguments, config = parse_config(parser, argv)
    workdir = open_folder(arguments.workdir)
    if arguments.label != Path(arguments.label).name or arguments.label == "..":
        raise UserError(f"--label={arguments.label} must be the name of a folder, without a path")
    if arguments.rescore:
        if not arguments.label:
            raise UserError("--rescore needs --label: the folder of WORKDIR/eval to score")
        print(format_table(rescore(workdir / "eval" / arguments.label)))
        return
    setup = set_up(config)
    policy: Policy = setup.policy
    label = made_by = START
    if arguments.label == START:
        hold_to_run(config, workdir, fields=START_WEIGHTS)
    else:
        policy, stage, step = restore_policy(config, setup, workdir)
        label = arguments.label or policy_label(config, stage, step)
        made_by = f"{stage.name} step {step}"
    summaries = evaluate(
        policy,
        setup.tokenizer,
        config,
        label=label,
        made_by=made_by,
        folder=workdir / "eval" / label,
        place=setup.place,
        progress=progress,
        log=say,
    )
    print(f"\n{format_table(summaries)}")


if __name__ == "__main__":
    sys.exit(main())
