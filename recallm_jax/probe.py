"""Ask a policy for values at once, after thoughts of growing length, and inside recall spans.

    python -m recallm_jax.probe --config=configs/eval_lost_in_thought.py --workdir=runs/probe

No training is needed: the job probes the starting weights or, with `--checkpoint`, the newest
checkpoint of the run in WORKDIR. Rows and a summary go to WORKDIR/probe/LABEL, where an interrupted
probe goes on; `report` shows the curve. `tasks/suites/lost_in_thought.py` explains the variants.
"""

import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.config.load import JobParser, check_evaluation_mesh, parse_config, path_argument
from recallm_jax.data.settings import check_system_prompt
from recallm_jax.evaluation.loop import Evaluated
from recallm_jax.evaluation.probe import format_probe, run_probe
from recallm_jax.evaluation.summaries import Row
from recallm_jax.policy.setup import set_up
from recallm_jax.reporting.figure import check_figure
from recallm_jax.reporting.probe import write_probe_figure
from recallm_jax.runtime import peers
from recallm_jax.runtime.errors import run_job
from recallm_jax.runtime.kept_programs import keep_programs
from recallm_jax.runtime.machine import write_machine
from recallm_jax.training.restore import START_WEIGHTS, Saved, hold_to_run, restore_policy
from recallm_jax.training.stages import START, policy_label
from storage.files import Path, open_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.probe", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of the run")
    parser.add_argument("--checkpoint", action="store_true", help="probe the newest checkpoint")
    parser.add_argument(
        "--figure", type=path_argument, help="also draw the curve, such as docs/probe.png"
    )
    parser.add_argument("--distributed", action="store_true", help="join other processes")
    arguments, config = parse_config(parser, argv)
    check_evaluation_mesh(config, "probe")
    workdir = open_folder(arguments.workdir)
    if arguments.figure is not None:
        check_figure(arguments.figure)
    keep_programs(config.compilation_cache, workdir=workdir if arguments.distributed else None)
    with peers.joined(arguments.distributed):
        summaries = _probe(config, workdir, checkpoint=arguments.checkpoint)
    if not summaries:
        return
    print(f"\n{format_probe(summaries)}")
    if arguments.figure is not None:
        write_probe_figure(summaries, arguments.figure)


def _probe(config: ConfigDict, workdir: Path, *, checkpoint: bool) -> list[Row]:
    """Probe the starting weights or the newest checkpoint; return the leader's summaries."""
    context = set_up(config)
    check_system_prompt(config, context.tokenizer)
    policy: Policy = context.policy
    label = made_by = START
    if checkpoint:
        policy, stage, step = restore_policy(config, context, workdir)
        label, made_by = policy_label(config, stage, step), Saved(stage, step).made_by
    else:
        hold_to_run(config, workdir, fields=START_WEIGHTS)
    probed = Evaluated(label, made_by, workdir / "probe" / label)
    with context.writing(probed.folder):
        summaries = run_probe(config, context, policy, probed)
        if context.leads:
            write_machine(probed.folder)
    return summaries


if __name__ == "__main__":
    sys.exit(main())
