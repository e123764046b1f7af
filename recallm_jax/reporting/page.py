"""The page of a run: its template, filled in."""

import dataclasses
import datetime
import functools
import json
import pathlib
from typing import Any

import jinja2
from markupsafe import Markup

from recallm_jax.reporting.curves import length_charts, probe_charts, stage_charts
from recallm_jax.reporting.data import Run, Tally, colour, count, main_labels, select, titles
from recallm_jax.reporting.examples import choose_examples, make_example
from recallm_jax.reporting.progress import left_to_do
from recallm_jax.reporting.speed import COLOURS, OTHER, seconds_shown, stage_speeds
from recallm_jax.reporting.svg import draw_svg, interval_bar, parts_bar, share_scale
from recallm_jax.reporting.verdicts import reward_sentence, verdicts
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.speed import PARTS

# Examples of each task and mode, and of each policy.
EXAMPLES = 3


def render(run: Run) -> str:
    """Return the page of a run."""
    folder = pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["seconds"] = seconds_shown
    environment.filters["svg"] = draw_svg
    environment.globals["interval_bar"] = interval_bar
    environment.globals["share_scale"] = share_scale
    environment.globals["parts_bar"] = functools.partial(parts_bar, colours=COLOURS)
    examples = [
        make_example(f"e{number}-{place}", row)
        for number, rows in enumerate(choose_examples(run, EXAMPLES))
        for place, row in enumerate(rows)
    ]
    speeds = stage_speeds(run)
    return environment.get_template("page.html").render(
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),
        js=Markup((folder / "page.js").read_text(encoding="utf-8")),
        run=run,
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        facts=_facts(run),
        left=left_to_do(run),
        verdicts=verdicts(run),
        overall=_tables(run, by_dataset=False),
        detailed=_tables(run, by_dataset=True),
        lengths=length_charts(run),
        probes=probe_charts(run),
        stages=stage_charts(run),
        speeds=speeds,
        show_utilisation=any(share is not None for one in speeds for share in one.utilisation),
        step_parts={part: COLOURS[part] for part in (*PARTS, OTHER)},
        reward_change=reward_sentence(run),
        examples=examples,
        num_rows=len(run.rows),
        titles=titles(run),
        chosen_label=main_labels(run)[-1] if run.labels else "",
        config=json.dumps(run.config, indent=1),
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return names and values that describe the run and its machine."""
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
            f"config.json of the run {run.name} is not the config of a run ({error!r}); restore "
            "it, or delete it to report without it"
        ) from None


@dataclasses.dataclass(frozen=True)
class Line:
    """One policy in a table of scores."""

    title: str
    colour: int
    score: Tally


def _tables(run: Run, *, by_dataset: bool) -> list[tuple[str, list[Line]]]:
    """Return a title and lines for each mode, length and, if asked for, data set."""
    tables = []
    for mode in run.modes:
        for dataset in run.datasets if by_dataset else [None]:
            for length in run.lengths:
                wanted: dict[str, Any] = {"mode": mode, "target_length": length}
                if dataset is not None:
                    wanted["dataset"] = dataset
                lines = []
                for label in run.labels:
                    score = count(select(run.rows, label=label, **wanted))
                    if score is not None:
                        lines.append(Line(titles(run)[label], colour(run, label), score))
                if lines:
                    name = f"{dataset}, " if dataset else ""
                    tables.append((f"{mode}, {name}{length} tokens", lines))
    return tables
