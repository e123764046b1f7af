"""Turn a run's folder into one self-contained HTML page.

    python -m recallm_jax.report --workdir=runs/quickstart

The page, `report.html` in that folder, needs no network: exact match by policy, mode and length,
training curves, and example responses with each recall span beside the place it was copied from.
"""

import dataclasses
import datetime
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from recallm_jax.config.load import JobParser
from recallm_jax.evaluation.summaries import Row
from recallm_jax.reporting.charts import Series, interval_bar, line_chart
from recallm_jax.reporting.data import (
    POLICY_STAGES,
    TITLES,
    Change,
    Run,
    Score,
    change,
    choose_examples,
    colour,
    count,
    curve,
    load_run,
    main_labels,
    reward_curve,
    select,
    titles,
)
from recallm_jax.reporting.examples import make_example
from recallm_jax.reporting.figure import write_figure
from recallm_jax.reporting.probe import probe_chart
from recallm_jax.runtime.errors import UserError, run_job
from storage.files import Path, as_path, is_remote, write_whole

FILE = "report.html"
# Stages shown under one heading, each with what its charts are called.
STAGES = {
    "Cold start": {"sft1": "phase 1 (new rows)", "sft2": "phase 2 (all parameters)"},
    **{title: {stage: ""} for stage, title in POLICY_STAGES.items()},
}
COMPONENTS = "reward_"
# Shown at once, in this order; the other metrics open on a click.
MAIN_METRICS = ("reward", COMPONENTS, "exact_match", "loss")
# Examples of each task and mode, and of each policy.
EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing with its title and the names of its lines (name, style)."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table of scores."""

    label: str
    style: str
    score: Score
    bar: Markup


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return its exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.report", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--figure", help="also draw a picture, such as docs/run.png")
    arguments = parser.parse_args(argv)
    report(arguments.workdir, arguments.figure)


def report(workdir: str, figure: str | None) -> None:
    """Write the page, and the picture if a file is given for it; say where the page is."""
    path = build_report(workdir)
    if figure is not None:
        write_figure(load_run(workdir), figure)
    print(f"report: {path if is_remote(path) else path.resolve().as_uri()}")


def build_report(workdir: str | Path) -> Path:
    """Write a run's page; return its path.

    Raises:
      UserError: there is nothing to report on, or a file is damaged.
    """
    page = render(load_run(workdir))
    path = as_path(workdir) / FILE
    write_whole(path, page)
    return path


def render(run: Run) -> str:
    """Return the page of a run."""
    folder = pathlib.Path(__file__).parent / "reporting"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    groups = choose_examples(run, EXAMPLES)
    examples = [
        make_example(f"e{number}-{place}", row)
        for number, rows in enumerate(groups)
        for place, row in enumerate(rows)
    ]
    return environment.get_template("page.html").render(
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),
        js=Markup((folder / "page.js").read_text(encoding="utf-8")),
        run=run,
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        facts=_facts(run),
        verdicts=_verdicts(run),
        overall=_tables(run, by_dataset=False),
        detailed=_tables(run, by_dataset=True),
        lengths=_length_charts(run),
        probes=_probe_charts(run),
        stages=_stages(run),
        reward_change=_reward_sentence(run),
        examples=examples,
        num_rows=len(run.rows),
        titles=titles(run),
        chosen_label=main_labels(run)[-1] if run.labels else "",
        config=json.dumps(run.config, indent=1),
    )


def _style(run: Run, label: str) -> str:
    return f"s{colour(run, label)}"


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return what was run, and on what."""
    facts = _config_facts(run) if run.config else []
    facts += [(name, str(value)) for name, value in run.machine.items()]
    times = [row["time"] for rows in run.metrics.values() for row in rows]
    if len(times) > 1:
        facts.append(("first to last step", f"{(max(times) - min(times)) / 60:.1f} min"))
    return facts


def _config_facts(run: Run) -> list[tuple[str, str]]:
    try:
        stages = [f"{name} {run.config[name]['steps']}" for name in run.config["stages"]]
        return [
            ("model", pathlib.PurePath(run.config["model"]["weights"]).name),
            ("stages, steps", ", ".join(stages)),
            ("seed", str(run.config["seed"])),
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"config.json of the run {run.name} is no config of a run ({error!r}); restore it, or "
            "delete it to report without it"
        ) from None


def _line(run: Run, label: str, rows: list[Row]) -> Line | None:
    score = count(rows)
    if score is None:
        return None
    style = _style(run, label)
    bar = interval_bar(score.exact_match, score.low, score.high, style)
    return Line(titles(run)[label], style, score, bar)


def _tables(run: Run, *, by_dataset: bool) -> list[tuple[str, list[Line]]]:
    """Return lines for the policies, grouped by mode, data set and length."""
    tables = []
    for mode in run.modes:
        for dataset in run.datasets if by_dataset else [None]:
            for length in run.lengths:
                wanted: dict[str, Any] = {"mode": mode, "target_length": length}
                if dataset is not None:
                    wanted["dataset"] = dataset
                title = f"{mode}, {dataset + ', ' if dataset else ''}{length} tokens"
                lines = [
                    _line(run, label, select(run.rows, label=label, **wanted))
                    for label in run.labels
                ]
                tables.append((title, [line for line in lines if line is not None]))
    return [(title, lines) for title, lines in tables if lines]


def _verdicts(run: Run) -> list[tuple[str, str, str, str]]:
    """Return the headline: (title, figure, explanation, style)."""
    verdicts = []
    if run.rows:
        mode, labels = run.modes[0], main_labels(run)
        first, last = (
            _line(run, label, select(run.rows, label=label, mode=mode))
            for label in (labels[0], labels[-1])
        )
        if first and last and len(labels) > 1:
            verdicts.append(_match_verdict(mode, first, last))
        for constrained in (True, False):
            chosen = [
                row for row in run.rows if row["mode"].startswith("constrained") == constrained
            ]
            score = count(chosen)
            if score is not None and score.spans:
                verdicts.append(_span_verdict(score, constrained))
    title, rewards = reward_curve(run)
    moved = change([value for _, value in rewards])
    if moved is not None:
        verdicts.append(_reward_verdict(title, moved))
    return verdicts


def _reward_verdict(title: str, moved: Change) -> tuple[str, str, str, str]:
    interval = moved.interval
    if moved.within_noise:
        judgement, style = "within noise: the interval holds 0", ""
    else:
        judgement, style = "the interval excludes 0", "good" if moved.difference > 0 else "bad"
    return (
        f"{title} reward",
        f"{moved.first:.3f} → {moved.last:.3f}",
        f"{moved.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] (95 %, Welch's "
        f"t), first to last {moved.steps} steps; {judgement}",
        style,
    )


def _match_verdict(mode: str, first: Line, last: Line) -> tuple[str, str, str, str]:
    a, b = first.score, last.score
    if b.low > a.high:
        judgement, style = "clearly above: the 95 % intervals do not meet", "good"
    elif b.high < a.low:
        judgement, style = "clearly below: the 95 % intervals do not meet", "bad"
    else:
        judgement, style = "not told apart: the 95 % intervals overlap", ""
    return (
        f"Exact match, {mode}, all lengths",
        f"{100 * a.exact_match:.0f} % → {100 * b.exact_match:.0f} %",
        f"{first.label} [{100 * a.low:.0f}, {100 * a.high:.0f}], n = {a.n}; "
        f"{last.label} [{100 * b.low:.0f}, {100 * b.high:.0f}], n = {b.n}; {judgement}",
        style,
    )


def _span_verdict(score: Score, constrained: bool) -> tuple[str, str, str, str]:
    where = "with the constraint" if constrained else "without the constraint"
    whole = score.verbatim == score.spans
    share = "100 %" if whole else f"{100 * score.verbatim / score.spans:.1f} %"
    style = "" if not constrained else ("good" if whole else "bad")
    return (
        f"Verbatim recall spans, {where}",
        share,
        f"{score.verbatim} of {score.spans} closed spans, all policies, stand word for word in "
        "the context",
        style,
    )


def _reward_sentence(run: Run) -> str:
    """Say in words whether GRPO or PPO moved its reward."""
    title, values = reward_curve(run)
    if not title:
        return ""
    moved = change([value for _, value in values])
    if moved is None:
        return f"{title} ran {len(values)} steps: too few to tell whether its reward changed."
    interval = moved.interval
    thirds = (
        f"Mean reward of the first {moved.steps} steps {moved.first:.3f} ± "
        f"{moved.first_error:.3f}, of the last {moved.steps} {moved.last:.3f} ± "
        f"{moved.last_error:.3f} (standard errors); difference {moved.difference:+.3f}, 95 % "
        f"interval {interval.low:+.3f} to {interval.high:+.3f} (Welch's t, "
        f"{interval.freedom:.1f} degrees of freedom)."
    )
    if moved.within_noise:
        return (
            f"{thirds} The interval holds 0: within noise. These steps do not show that "
            f"{title} changed the reward."
        )
    direction = "rose" if moved.difference > 0 else "fell"
    return f"{thirds} The interval excludes 0: the reward {direction}."


def _length_charts(run: Run) -> list[Chart]:
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
                            _style(run, label),
                            [(score.low, score.high) for _, score in known],
                        )
                    )
            if series:
                svg = line_chart(
                    series,
                    x_label="length of the prompt, tokens",
                    bounds=(0.0, 1.0),
                    percent=True,
                    x_ticks=run.lengths,
                )
                charts.append(Chart(f"{dataset}, {mode}", svg, _legend(series)))
    return charts


def _probe_charts(run: Run) -> list[Chart]:
    """Return the lost-in-thought curve of each policy that was probed."""
    charts = []
    for label, rows in run.probes.items():
        svg, legend = probe_chart(rows)
        title = f"{TITLES.get(label, label)}, prompts of {rows[0]['target_length']} tokens"
        charts.append(Chart(f"{title}, n = {min(row['n'] for row in rows)}", svg, legend))
    return charts


def _legend(series: Sequence[Series]) -> list[tuple[str, str]]:
    return [(line.name, line.style) for line in series] if len(series) > 1 else []


def _stages(run: Run) -> list[tuple[str, list[Chart], list[Chart]]]:
    """Return the headings with their main charts and their others."""
    headings = []
    for title, stages in STAGES.items():
        main: list[Chart] = []
        others: list[Chart] = []
        for stage, suffix in stages.items():
            if stage in run.metrics:
                first, rest = _stage_charts(run.metrics[stage], f", {suffix}" if suffix else "")
                main += first
                others += rest
        if main or others:
            headings.append((title, main, others))
    return headings


def _stage_charts(rows: list[dict[str, Any]], suffix: str) -> tuple[list[Chart], list[Chart]]:
    """Return a stage's main charts and the others: one for each metric, one for the components."""
    names = dict.fromkeys(name for row in rows for name in row)
    parts = [name for name in names if name.startswith(COMPONENTS)]
    charts = {
        name: Chart(
            name.replace("_", " ") + suffix,
            line_chart([Series(name, points, "s1")], x_label="step", smooth=True),
            [],
        )
        for name in names
        if name not in (*parts, "stage", "step", "time") and (points := curve(rows, name))
    }
    if parts:
        series = [
            Series(name.removeprefix(COMPONENTS).replace("_", " "), curve(rows, name), f"c{number}")
            for number, name in enumerate(parts)
        ]
        svg = line_chart(series, x_label="step", bounds=(0.0, 1.0), smooth=True)
        charts[COMPONENTS] = Chart(f"components of the reward{suffix}", svg, _legend(series))
    main = [charts.pop(name) for name in MAIN_METRICS if name in charts]
    return main, list(charts.values())


if __name__ == "__main__":
    sys.exit(main())
