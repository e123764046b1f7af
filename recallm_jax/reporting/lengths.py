"""Scores against the length of the prompt: the policies of several runs in one table and picture.

A series is the answers of one setting in one mode of decoding, over all its runs.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from recallm_jax.evaluation.statistics import sign_test, wilson_interval
from recallm_jax.evaluation.summaries import Row, question_of
from recallm_jax.reporting.chart import Chart, Series
from recallm_jax.reporting.data import NUM_COLOURS, Run, main_labels, select
from recallm_jax.runtime.errors import UserError

# By question, the mean of its scores.
Scores = dict[tuple[str, str], float]


@dataclasses.dataclass(frozen=True)
class Answers:
    """The evaluation rows of one policy of a run: the one with this label, or else the last."""

    run: Run
    label: str = ""

    @property
    def rows(self) -> list[Row]:
        """The rows of the policy.

        Raises:
          UserError: the run has none.
        """
        labels = self.run.labels if self.label else main_labels(self.run)
        label = self.label or (labels[-1] if labels else "")
        if label not in labels:
            known = f"has {', '.join(labels)}" if labels else "has no evaluation"
            raise UserError(f"{self.run.name}@{label}: the run {known}; name one of its labels")
        return select(self.run.rows, label=label)


def series_of(settings: Mapping[str, Sequence[Answers]]) -> dict[str, list[Row]]:
    """Return the rows of each series, the settings in their order, each mode apart."""
    found = {}
    for name, answers in settings.items():
        rows = [row for one in answers for row in one.rows]
        modes = list(dict.fromkeys(row["mode"] for row in rows))
        for mode in modes:
            title = f"{name}, {mode}" if len(modes) > 1 else name
            found[title] = select(rows, mode=mode)
    return found


def scores_of(rows: Sequence[Row]) -> Scores:
    """Return the mean score of each question: a suite's own main metric, or else exact match."""
    found = collections.defaultdict(list)
    for row in rows:
        score = row["score"] if "score" in row else row["exact_match"]
        found[question_of(row)].append(float(score))
    return {question: statistics.fmean(values) for question, values in found.items()}


def length_table(series: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """Return a header, and a row for each data set, length and series.

    Each series is compared with the first one, over the questions that both have answered.
    """
    lines = [["data set", "length", "policy", "responses", "questions", "score", "95 % interval"]]
    lines[0] += ["gained", "lost", "p"]
    first = next(iter(series))
    for dataset, length in _places(series):
        of_first = scores_of(select(series[first], dataset=dataset, target_length=length))
        for name, rows in series.items():
            here = select(rows, dataset=dataset, target_length=length)
            scores = scores_of(here)
            if not scores:
                continue
            low, high = wilson_interval(math.fsum(scores.values()), len(scores))
            cells = [dataset, str(length), name, str(len(here)), str(len(scores))]
            cells += [f"{100 * statistics.fmean(scores.values()):.1f} %"]
            cells += [f"{100 * low:.1f} to {100 * high:.1f} %"]
            lines.append(cells + (["", "", ""] if name == first else _against(of_first, scores)))
    return lines


def _against(first: Scores, scores: Scores) -> list[str]:
    """Return the questions gained and lost, and p of the exact sign test."""
    moved = [scores[question] - first[question] for question in first.keys() & scores.keys()]
    gained, lost = sum(value > 0 for value in moved), sum(value < 0 for value in moved)
    return [str(gained), str(lost), f"{sign_test(gained, lost):.2g}"] if moved else ["", "", ""]


def length_charts(series: Mapping[str, Sequence[Row]]) -> list[Chart]:
    """Return a chart for each data set; lengths are evenly spaced, as they mostly double."""
    charts = []
    for dataset in dict.fromkeys(dataset for dataset, _ in _places(series)):
        lengths = [length for name, length in _places(series) if name == dataset]
        lines = []
        for number, (name, rows) in enumerate(series.items()):
            points, intervals = [], []
            for place, length in enumerate(lengths):
                scores = scores_of(select(rows, dataset=dataset, target_length=length))
                if scores:
                    total = math.fsum(scores.values())
                    points.append((place, total / len(scores)))
                    intervals.append(wilson_interval(total, len(scores)))
            if points:
                lines.append(Series(name, points, number % NUM_COLOURS, intervals))
        charts.append(
            Chart(
                dataset,
                lines,
                x_label="length of the prompt, tokens",
                bounds=(0.0, 1.0),
                percent=True,
                x_ticks={place: f"{length:,}" for place, length in enumerate(lengths)},
            )
        )
    return charts


def _places(series: Mapping[str, Sequence[Row]]) -> list[tuple[str, int]]:
    """Return the data sets and lengths of the rows, in order."""
    return sorted(
        {(row["dataset"], row["target_length"]) for rows in series.values() for row in rows}
    )
