"""Settings compared: tables of rewards and scores, and the curves of training.

A setting is the runs with one name, such as those of several seeds; they are pooled.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from recallm_jax.evaluation.statistics import Number, mean_and_error, sign_test, wilson_interval
from recallm_jax.evaluation.summaries import Row, question_of
from recallm_jax.reporting.chart import Chart, Series
from recallm_jax.reporting.data import (
    NUM_COLOURS,
    POLICY_STAGES,
    Run,
    change,
    count,
    curve,
    main_labels,
    policy_stage,
    select,
)
from recallm_jax.runtime.errors import UserError

# The metrics of a step that the picture shows, and their titles.
CURVES = {"reward": "reward", "exact_match": "exact match of the sampled responses"}
# The runs of each setting, by its name.
Settings = Mapping[str, Sequence[Run]]


def policy_curve(run: Run, metric: str) -> list[tuple[int, Number]]:
    """Return a metric of a run's last policy-gradient stage, by step.

    Raises:
      UserError: the run has no such stage.
    """
    stage = policy_stage(run)
    if stage is None:
        raise UserError(
            f"{run.name} has no step of {' or '.join(POLICY_STAGES)}; train it further, or leave "
            "it out"
        )
    return curve(run.metrics[stage], metric)


def reward_table(settings: Settings) -> list[list[str]]:
    """Return the changes of the reward: a header, and a row for each setting."""
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
    """Right answers, pooled over runs, with their 95 % Wilson interval over distinct questions.

    Attributes:
      n: prompts, those of each run counted.
    """

    n: int
    questions: int
    share: float
    low: float
    high: float


def pooled(runs: Sequence[Run], mode: str, *, last: bool) -> Share | None:
    """Return the exact match of the first or the last evaluated policies; None without rows."""
    scores, asked = [], set()
    for run in runs:
        labels = main_labels(run)
        rows = select(run.rows, mode=mode, label=labels[-last]) if labels else []
        scores += [score for score in (count(rows),) if score is not None]
        asked |= {question_of(row) for row in rows}
    if not scores:
        return None
    n, questions = sum(score.n for score in scores), len(asked)
    share = sum(score.n * score.exact_match for score in scores) / n
    return Share(n, questions, share, *wilson_interval(share * questions, questions))


def paired(runs: Sequence[Run], mode: str) -> tuple[int, int]:
    """Count the questions that the last policies answer better, and worse, than the first ones.

    A question counts by the mean over its prompts, their samples and the runs. Prompts that only
    one of a run's two policies has answered are left out.
    """
    differences = collections.defaultdict(list)
    for run in runs:
        labels = main_labels(run)
        before, after = (
            _exact_matches(select(run.rows, mode=mode, label=label))
            for label in (labels[0], labels[-1])
        )
        for question, prompt in before.keys() & after.keys():
            difference = after[question, prompt] - before[question, prompt]
            differences[question].append(difference)
    moved = [math.fsum(values) for values in differences.values()]
    return sum(value > 0 for value in moved), sum(value < 0 for value in moved)


def _exact_matches(rows: Sequence[Row]) -> dict[tuple[tuple, tuple], float]:
    """Return the exact match of each question and prompt."""
    scores = collections.defaultdict(list)
    for row in rows:
        prompt = row["task"], row["example_id"]
        scores[question_of(row), prompt].append(row["exact_match"])
    return {prompt: statistics.fmean(values) for prompt, values in scores.items()}


def score_table(settings: Settings) -> list[list[str]]:
    """Return exact match before and after: a header, and a row for each setting and mode."""
    ends_titles = ["exact match at the start", "at the end"]
    lines = [["setting", "decoding", "n", "questions", *ends_titles, "gained", "lost", "p"]]
    for name, runs in settings.items():
        for mode in dict.fromkeys(mode for run in runs for mode in run.modes):
            ends = [pooled(runs, mode, last=last) for last in (False, True)]
            cells = [
                f"{100 * end.share:.1f} % ({100 * end.low:.1f} to {100 * end.high:.1f})"
                if end is not None
                else "not evaluated"
                for end in ends
            ]
            asked = next((end for end in ends if end is not None), None)
            counts = [str(asked.n), str(asked.questions)] if asked else ["0", "0"]
            compared = ["", "", ""]
            trained = [run for run in runs if len(main_labels(run)) > 1]
            if trained and all(end is not None for end in ends):
                gained, lost = paired(trained, mode)
                compared = [str(gained), str(lost), f"{sign_test(gained, lost):.2g}"]
            lines.append([name, mode, *counts, *cells, *compared])
    return lines


def comparison_charts(settings: Settings) -> list[Chart]:
    """Return a chart for each of `CURVES`: the mean over a setting's runs ± its standard error."""
    charts = []
    for metric, title in CURVES.items():
        series = []
        for number, (name, runs) in enumerate(settings.items()):
            points = mean_curve([policy_curve(run, metric) for run in runs])
            if points:
                series.append(
                    Series(
                        f"{name} ({len(runs)})",
                        [(step, mean) for step, mean, _ in points],
                        (number + 1) % NUM_COLOURS,
                        [(mean - error, mean + error) for _, mean, error in points],
                    )
                )
        charts.append(Chart(title, series, x_label="step", bounds=(0, None), band=True))
    return charts


def mean_curve(
    curves: Sequence[Sequence[tuple[int, Number]]],
) -> list[tuple[int, float, float]]:
    """Return (step, mean, standard error) over the curves that have the step.

    The standard error of a single curve is 0.
    """
    by_step: dict[int, list[float]] = {}
    for points in curves:
        for step, value in points:
            by_step.setdefault(step, []).append(float(value))
    return [(step, *mean_and_error(values)) for step, values in sorted(by_step.items())]
