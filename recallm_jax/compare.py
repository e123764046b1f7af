"""Compare runs: rewards over the steps of training, and evaluations before and after.

    python -m recallm_jax.compare --run GRPO=runs/grpo_0 --run GRPO=runs/grpo_1 --run PPO=runs/ppo_0

Runs with the same name, such as those of several seeds, are one setting and are pooled. The first
table compares the mean reward of the first third of the steps with that of the last third. The
second compares, in each mode of decoding, the exact match of the starting weights with that of the
last policy that was evaluated. All intervals are 95 % intervals. Both policies answer the same
prompts, so the prompts gained and lost say more than two intervals do: p is the probability of so
uneven a split by chance (the exact sign test; McNemar 1947). A folder of evaluations alone, such as
that of `evaluate --results`, is in the second table only.

`--probes=FIGURE` draws the lost-in-thought probes of all runs in one picture instead, and
`--lengths=FIGURE` scores against the length of the prompt. Then `--run=NAME=FOLDER@LABEL` names
another policy of the run than the last.
"""

import sys
from collections.abc import Mapping, Sequence

from recallm_jax.config.load import JobParser, path_argument
from recallm_jax.evaluation.probe import format_probe
from recallm_jax.evaluation.summaries import align
from recallm_jax.reporting.comparison import comparison_charts, reward_table, score_table
from recallm_jax.reporting.data import Run, load_run
from recallm_jax.reporting.figure import check_figure, write_charts
from recallm_jax.reporting.lengths import Answers, length_charts, length_table, series_of
from recallm_jax.reporting.probe import policies_chart
from recallm_jax.runtime.errors import UserError, run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.compare", __doc__)
    parser.add_argument(
        "--run", action="append", required=True, metavar="NAME=FOLDER", help="a run of a setting"
    )
    parser.add_argument("--figure", type=path_argument, help="picture to draw, such as compare.png")
    parser.add_argument(
        "--probes", metavar="FIGURE", help="draw the probes of all runs in one picture, no more"
    )
    parser.add_argument(
        "--lengths",
        metavar="FIGURE",
        help="compare scores by the length of the prompt, no more; --run=NAME=FOLDER@LABEL",
    )
    arguments = parser.parse_args(argv)
    for path in filter(None, (arguments.figure, arguments.probes, arguments.lengths)):
        check_figure(path)
    if arguments.lengths:
        _compare_lengths(_named(arguments.run), arguments.lengths)
        return
    settings: dict[str, list[Run]] = {}
    for name, folder in _named(arguments.run):
        settings.setdefault(name, []).append(load_run(folder))
    if arguments.probes:
        _draw_probes(settings, arguments.probes)
        return
    trained = {name: runs for name, runs in settings.items() if any(run.metrics for run in runs)}
    if arguments.figure and not trained:
        raise UserError("--figure draws the rewards of training, and none of the runs has any")
    tables = [reward_table(trained)] if trained else []
    print("\n\n".join(map(align, [*tables, score_table(settings)])))
    if arguments.figure:
        caption = "mean over runs ± its standard error"
        write_charts(comparison_charts(trained), arguments.figure, caption=caption)


def _named(runs: Sequence[str]) -> list[tuple[str, str]]:
    """Return the setting and the folder of each run."""
    found = []
    for text in runs:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--run={text} names no setting or no folder; write --run=NAME=FOLDER")
        found.append((name, folder))
    return found


def _compare_lengths(named: Sequence[tuple[str, str]], path: str) -> None:
    """Print and draw scores by length, each setting's runs pooled."""
    loaded: dict[str, Run] = {}
    settings: dict[str, list[Answers]] = {}
    for name, place in named:
        folder, at, label = place.rpartition("@")
        if not at or "/" in label:
            folder, at, label = place, "", ""
        if at and not label:
            raise UserError(
                f"--run={name}={place} names no policy after @; leave @ out, or name it"
            )
        if folder not in loaded:
            loaded[folder] = load_run(folder)
        settings.setdefault(name, []).append(Answers(loaded[folder], label))
    series = series_of(settings)
    print(align(length_table(series)))
    write_charts(length_charts(series), path, caption="95 % intervals, over distinct questions")


def _draw_probes(settings: Mapping[str, Sequence[Run]], path: str) -> None:
    """Print and draw the lost-in-thought probes of all runs, each policy by name."""
    probes = {}
    for name, runs in settings.items():
        for run in runs:
            for label, rows in run.probes.items():
                several = len(run.probes) > 1 or len(runs) > 1
                title = f"{name}, {run.name} {label}" if several else name
                probes[title] = [row | {"label": title} for row in rows]
    if not probes:
        raise UserError("--probes: none of the runs has a probe; run recallm_jax.probe first")
    print("\n\n".join(format_probe(rows) for rows in probes.values()))
    write_charts([policies_chart(probes, "right values, 95 % intervals")], path)


if __name__ == "__main__":
    sys.exit(main())
