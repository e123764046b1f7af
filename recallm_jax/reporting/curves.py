"""The charts of a run: exact match by length, lost in thought, and the metrics of training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from recallm_jax.reporting.chart import Chart, Point, Series
from recallm_jax.reporting.data import (
    NUM_COLOURS,
    POLICY_STAGES,
    TITLES,
    Run,
    colour,
    count,
    curve,
    reward_curve,
    select,
    titles,
)
from recallm_jax.reporting.probe import probe_chart
from recallm_jax.reporting.speed import COLOURS
from recallm_jax.runtime.timing import SECONDS, TOKENS_PER_SECOND, UTILISATION

# The stages shown under one heading, with their names on its charts.
STAGES = {
    "Cold start": {"sft1": "phase 1 (new rows)", "sft2": "phase 2 (all parameters)"},
    **{title: {stage: ""} for stage, title in POLICY_STAGES.items()},
}
COMPONENTS = "reward_"
# What metrics of one chart begin with, and its title.
TOGETHER = {
    COMPONENTS: "components of the reward",
    SECONDS: "seconds of a step and of its parts",
    TOKENS_PER_SECOND: "tokens a second",
    UTILISATION: "model-FLOPs utilisation",
}
# Shown at once, in this order; the other metrics open on a click.
MAIN_METRICS = ("reward", COMPONENTS, "exact_match", "loss")


def length_charts(run: Run) -> list[Chart]:
    """Return accuracy by length, a chart for each mode and data set."""
    charts = []
    for mode in run.modes:
        for dataset in run.datasets:
            series = []
            for label in run.labels:
                rows = select(run.rows, label=label, mode=mode, dataset=dataset)
                scored = [(n, count(select(rows, target_length=n))) for n in run.lengths]
                known = [(n, score) for n, score in scored if score is not None]
                if known:
                    series.append(
                        Series(
                            titles(run)[label],
                            [(n, score.exact_match) for n, score in known],
                            colour(run, label),
                            [(score.low, score.high) for _, score in known],
                        )
                    )
            if series:
                charts.append(
                    Chart(
                        f"{dataset}, {mode}",
                        series,
                        x_label="length of the prompt, tokens",
                        bounds=(0.0, 1.0),
                        percent=True,
                        x_ticks={length: str(length) for length in run.lengths},
                    )
                )
    return charts


def probe_charts(run: Run) -> list[Chart]:
    """Return the lost-in-thought curve of each policy that was probed."""
    return [
        probe_chart(
            rows,
            f"{TITLES.get(label, label)}, prompts of {rows[0]['target_length']} tokens, "
            f"n = {min(row['n'] for row in rows)}",
        )
        for label, rows in run.probes.items()
    ]


def reward_chart(run: Run) -> Chart:
    """Return the reward of the last policy-gradient stage; a chart without lines if none ran."""
    title, points = reward_curve(run)
    series = [Series("reward", points, 1)] if points else []
    return Chart(f"{title or 'GRPO'} reward, mean of a step", series, x_label="step", smooth=True)


@dataclasses.dataclass(frozen=True)
class StageCharts:
    """The charts under one heading: those shown at once, and those that open on a click."""

    title: str
    main: list[Chart]
    others: list[Chart]


def stage_charts(run: Run) -> list[StageCharts]:
    """Return the charts of each heading whose stages ran."""
    headings = []
    for title, stages in STAGES.items():
        main: list[Chart] = []
        others: list[Chart] = []
        for stage, suffix in stages.items():
            if stage in run.metrics:
                charts = _metric_charts(run.metrics[stage], f", {suffix}" if suffix else "")
                main += [charts.pop(name) for name in MAIN_METRICS if name in charts]
                others += charts.values()
        if main or others:
            headings.append(StageCharts(title, main, others))
    return headings


def _metric_charts(rows: Sequence[Mapping[str, Any]], suffix: str) -> dict[str, Chart]:
    """Return a chart for each metric of a stage; those of `TOGETHER` share one."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {
        name: points
        for name in names
        if name not in ("stage", "step", "time") and (points := curve(rows, name))
    }
    charts = {}
    for prefix, title in TOGETHER.items():
        parts = [name for name in found if name.startswith(prefix)]
        if parts:
            charts[prefix] = Chart(
                title + suffix,
                [
                    _line(name.removeprefix(prefix), found.pop(name), prefix, number)
                    for number, name in enumerate(parts)
                ],
                x_label="step",
                bounds=(0.0, 1.0 if prefix == COMPONENTS else None),
                percent=prefix == UTILISATION,
                smooth=True,
            )
    for name, points in found.items():
        charts[name] = Chart(
            name.replace("_", " ") + suffix,
            [Series(name, points, 1)],
            x_label="step",
            smooth=True,
        )
    return charts


def _line(name: str, points: Sequence[Point], prefix: str, number: int) -> Series:
    """Return a line of a chart of several metrics; its number gives the colour.

    The parts of a step have the same colour in every stage.
    """
    # The first colour, grey, is left to the starting weights.
    colour = COLOURS.get(name, 0) if prefix == SECONDS else 1 + number % (NUM_COLOURS - 1)
    return Series(name.replace("_", " "), points, colour)
