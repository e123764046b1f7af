"""The table of a run's speed, by hand."""

import dataclasses
import json
import re

import pytest

from recallm_jax import report
from recallm_jax.reporting.curves import stage_charts
from recallm_jax.reporting.data import load_run
from recallm_jax.reporting.speed import seconds_shown, stage_speeds
from recallm_jax.reporting.svg import parts_bar


def write(folder, rows):
    lines = [{"stage": "grpo", "step": n, "time": float(n)} | row for n, row in enumerate(rows)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run(folder)


STEPS = [
    # Compiles.
    {"seconds_rollout": 90.0, "seconds_update": 40.0, "seconds_step": 131.0, "padding": 0.5}
    | {"seconds_compile": 120.0},
    {"seconds_rollout": 8.0, "seconds_update": 3.0, "seconds_step": 11.5, "padding": 0.25}
    | {"seconds_compile": 1.5},
    # Saves the checkpoint of the step before.
    {"seconds_rollout": 9.0, "seconds_update": 2.0, "seconds_step": 16.0, "padding": 0.125},
]


def test_the_table_has_medians_and_the_rest_of_a_step(tmp_path):
    rates = [{"tokens_per_second_update": rate} for rate in (10.0, 300.0, 200.0)]
    rows = [{"loss": 1.0}, *(step | rate for step, rate in zip(STEPS, rates, strict=True))]
    (found,) = stage_speeds(write(tmp_path, rows))
    assert (found.title, found.steps, found.seconds, found.padding) == ("GRPO", 3, 16.0, 0.25)
    # What no part covers took 1, 0.5 and 5 seconds.
    assert found.parts == {"rollout": 9.0, "update": 3.0, "other": 1.0}
    assert found.compiling == 121.5
    assert list(found.tokens) == [None, 200.0]
    assert list(found.utilisation) == [None, None]


def test_a_run_without_times_has_no_table(tmp_path):
    run = write(tmp_path, [{"loss": 1.0}] * 3)
    assert stage_speeds(run) == []
    assert "<h3>Speed</h3>" not in report.build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("accelerator", [False, True])
def test_the_page_shows_utilisation_only_where_it_is_known(tmp_path, accelerator):
    write(tmp_path, [step | {"mfu_update": 0.375} if accelerator else step for step in STEPS])
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    (table,) = re.findall(r'<table class="speed">.*?</table>', page, re.DOTALL)
    assert "25.0 %" in table and ">16<" in table
    assert ("37.5 %" in table) == ("MFU" in table) == accelerator


def test_the_parts_of_a_step_share_a_chart_in_colours_of_their_own(tmp_path):
    (grpo,) = stage_charts(write(tmp_path, STEPS))
    (chart,) = (chart for chart in grpo.others if chart.title.startswith("seconds"))
    colours = {line.name: line.colour for line in chart.series}
    assert list(colours) == ["rollout", "update", "step", "compile"]
    assert len(set(colours.values())) == 4
    sft = write(tmp_path, [{"seconds_update": 2.0, "seconds_step": 3.0}] * 2)
    sft = dataclasses.replace(sft, metrics={"sft1": sft.metrics["grpo"]})
    (other,) = (chart for chart in stage_charts(sft)[0].others if chart.title.startswith("sec"))
    assert {line.name: line.colour for line in other.series}.items() <= colours.items()


def test_a_bar_is_as_wide_as_its_shares():
    drawn = parts_bar({"rollout": 3.0, "update": 1.0}, {"rollout": 3, "update": 6})
    widths = [float(width) for width in re.findall(r'<rect [^>]* width="([\d.]+)"', drawn)]
    assert widths == [112.5, 37.5]
    assert "rollout: 75 %" in drawn


def test_seconds_have_three_digits():
    assert [seconds_shown(x) for x in (0.01234, 1.0, 98.76, 1234.5)] == [
        *("0.0123", "1", "98.8", "1,234")
    ]
