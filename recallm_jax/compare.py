"""Compare runs: rewards over the steps of training, and evaluations before and after.

    python -m recallm_jax.compare --run GRPO=runs/grpo_0 --run GRPO=runs/grpo_1 --run PPO=runs/ppo_0

Runs of one name, such as those of several seeds, are one setting, and are pooled. The table says
how the reward went from the first third of the steps to the last, and exact match from the starting
weights to the last policy that was evaluated, in each mode of decoding; intervals are of 95 %. Both
policies answer the same prompts, so those gained and lost say more than two intervals: p is that of
as uneven a split by chance (the exact sign test; McNemar 1947).
"""

import collections
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence

from recallm_jax.config.load import JobParser
from recallm_jax.evaluation.statistics import mean_and_error, sign_test, wilson_interval
from recallm_jax.evaluation.summaries import Row, align
from recallm_jax.reporting.data import (
    POLICY_STAGES,
    Run,
    change,
    count,
    curve,
    load_run,
    main_labels,
    policy_stage,
    select,
)
from recallm_jax.reporting.figure import COLOURS, check_figure, save_figure
from recallm_jax.runtime.errors import UserError, run_job
from storage.files import Path

# What the picture shows of each step: a metric, and what it is called.
CURVES = {"reward": "reward", "exact_match": "exact match of the sampled responses"}
Settings = Mapping[str, Sequence[Run]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.compare", __doc__)
    parser.add_argument(
        "--run", action="append", required=True, metavar="NAME=FOLDER", help="a run of a setting"
    )
    parser.add_argument("--figure", help="picture to draw, such as compare.png")
    arguments = parser.parse_args(argv)
    if arguments.figure:
        check_figure(arguments.figure)
    settings: dict[str, list[Run]] = {}
    for text in arguments.run:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--run={text} names no setting or no folder; write --run=NAME=FOLDER")
        settings.setdefault(name, []).append(load_run(folder))
    print(align(reward_table(settings)), align(score_table(settings)), sep="\n\n")
    if arguments.figure:
        draw(settings, arguments.figure)


def policy_curve(run: Run, metric: str) -> list[tuple[int, int | float]]:
    """Return a metric by step of the last policy-gradient stage of a run.

    Raises:
      UserError: the run has none.
    """
    stage = policy_stage(run)
    if stage is None:
        raise UserError(
            f"{run.name} has no step of {' or '.join(POLICY_STAGES)}; train it further, or leave "
            "it out"
        )
    return curve(run.metrics[stage], metric)


def reward_table(settings: Settings) -> list[list[str]]:
    """Return how the reward went: a header, and a row a setting."""
    lines = [["setting", "runs", "steps", "reward, first third", "last third", "difference"]]
    for name, runs in settings.items():
        curves = [[value for _, value in policy_curve(run, "reward")] for run in runs]
        cells = [name, str(len(runs)), "/".join(sorted({str(len(values)) for values in curves}))]
        found = change(*curves)
        if found is None:
            lines.append([*cells, "too few steps", "", ""])
            continue
        interval = found.interval
        cells += [f"{found.first:.3f}", f"{found.last:.3f}"]
        lines.append(
            [*cells, f"{found.difference:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"]
        )
    return lines


@dataclasses.dataclass(frozen=True)
class Share:
    """Right answers of n prompts, pooled over runs; with its 95 % Wilson interval."""

    n: int
    share: float
    low: float
    high: float


def pooled(runs: Sequence[Run], mode: str, *, last: bool) -> Share | None:
    """Return the exact match of the first or last evaluated policies; None without rows."""
    scores = []
    for run in runs:
        labels = main_labels(run)
        rows = select(run.rows, mode=mode, label=labels[-last]) if labels else []
        scores += [score for score in (count(rows),) if score is not None]
    if not scores:
        return None
    n = sum(score.n for score in scores)
    right = sum(score.n * score.exact_match for score in scores)
    return Share(n, right / n, *wilson_interval(right, n))


def paired(runs: Sequence[Run], mode: str) -> tuple[int, int]:
    """Return how many prompts the last evaluated policies answer better than the first, and worse.

    Of a prompt with several samples it is their mean; prompts that one of both has not answered are
    left out.
    """
    gained = lost = 0
    for run in runs:
        labels = main_labels(run)
        before, after = (
            _exact_matches(select(run.rows, mode=mode, label=label))
            for label in (labels[0], labels[-1])
        )
        differences = [after[prompt] - before[prompt] for prompt in before.keys() & after.keys()]
        gained += sum(difference > 0 for difference in differences)
        lost += sum(difference < 0 for difference in differences)
    return gained, lost


def _exact_matches(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    scores = collections.defaultdict(list)
    for row in rows:
        scores[row["task"], row["example_id"]].append(row["exact_match"])
    return {prompt: statistics.fmean(values) for prompt, values in scores.items()}


def score_table(settings: Settings) -> list[list[str]]:
    """Return exact match before and after training: a header, and a row a setting and mode."""
    ends_titles = ["exact match at the start", "at the end"]
    lines = [["setting", "decoding", "n", *ends_titles, "gained", "lost", "p"]]
    for name, runs in settings.items():
        for mode in dict.fromkeys(mode for run in runs for mode in run.modes):
            ends = [pooled(runs, mode, last=last) for last in (False, True)]
            cells = [
                f"{100 * end.share:.1f} % ({100 * end.low:.1f} to {100 * end.high:.1f})"
                if end is not None
                else "not evaluated"
                for end in ends
            ]
            count = next((end.n for end in ends if end is not None), 0)
            compared = ["", "", ""]
            trained = [run for run in runs if len(main_labels(run)) > 1]
            if trained and all(end is not None for end in ends):
                gained, lost = paired(trained, mode)
                compared = [str(gained), str(lost), f"{sign_test(gained, lost):.2g}"]
            lines.append([name, mode, str(count), *cells, *compared])
    return lines


def draw(settings: Settings, path: str | Path) -> None:
    """Draw the curves: the mean over a setting's runs, with its standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2), CURVES.items(), strict=True):
        for number, (name, runs) in enumerate(settings.items()):
            points = mean_curve([policy_curve(run, metric) for run in runs])
            steps, means, errors = zip(*points, strict=True)
            colour = COLOURS[(number + 1) % len(COLOURS)]
            axes.plot(steps, means, color=colour, linewidth=1.5, label=f"{name} ({len(runs)})")
            below = [mean - error for mean, error in zip(means, errors, strict=True)]
            above = [mean + error for mean, error in zip(means, errors, strict=True)]
            axes.fill_between(steps, below, above, color=colour, alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="step", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle("mean over runs ± its standard error", fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def mean_curve(
    curves: Sequence[Sequence[tuple[int, int | float]]],
) -> list[tuple[int, float, float]]:
    """Return (step, mean, standard error) over the curves that have the step; 0 error for one."""
    by_step: dict[int, list[float]] = {}
    for points in curves:
        for step, value in points:
            by_step.setdefault(step, []).append(float(value))
    return [(step, *mean_and_error(values)) for step, values in sorted(by_step.items())]


if __name__ == "__main__":
    sys.exit(main())
