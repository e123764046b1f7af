"""Charts on the page and as pictures: the same lines, intervals and places, all in the frame."""

import re

import pytest

from recallm_jax.reporting.chart import Chart, Series, moving_mean
from recallm_jax.reporting.figure import COLOURS, draw_chart, write_charts
from recallm_jax.reporting.svg import WIDTH, draw_svg

ABOVE = Series("above", [(0, 0.5), (1, 0.75)], 1, [(0.25, 0.625), (0.5, 1.0)])
BELOW = Series("below", [(0, 0.25), (1, 0.0)], 2, [(0.0, 0.5), (0.0, 0.25)], thin=True)


def chart_of(*series, **fields):
    return Chart("title", series, x_label="step", **fields)


def drawn(chart):
    """Return the matplotlib axes that a chart is drawn on."""
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    draw_chart(axes, chart)
    return axes


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 1e-9], [-1e6, 3e6]])
def test_a_chart_of_any_values_has_finite_places_inside_the_frame(values):
    svg = draw_svg(chart_of(Series("a", list(enumerate(values)), 0)))
    places = [float(x) for x in re.findall(r'c[xy]="([^"]*)"', svg)]
    assert len(places) == 2 * len(values)
    assert all(0 <= place <= 330 for place in places)


@pytest.mark.parametrize(
    ("value", "ticks"),
    [
        (0.0, ["0", "0.25", "0.5", "0.75", "1"]),
        (4.0, ["0", "1", "2", "3", "4"]),
        (-2.0, ["-2", "-1.5", "-1", "-0.5", "0"]),
    ],
)
def test_the_axis_of_a_constant_begins_at_nothing(value, ticks):
    chart = chart_of(Series("a", [(0, value), (1, value)], 0))
    svg = draw_svg(chart)
    assert re.findall(r'text-anchor="end">([^<]*)<', svg) == ticks
    low, high = drawn(chart).get_ylim()
    assert (low, high) == pytest.approx((float(ticks[0]), float(ticks[-1])), abs=0.1)


@pytest.mark.parametrize("number", [1, 2, 8, 20])
@pytest.mark.parametrize("points", [1, 3])
def test_whiskers_of_any_number_of_lines_are_side_by_side_inside_the_frame(number, points):
    values = [(x, 0.5) for x in range(points)]
    series = [Series("a", values, 0, [(0.0, 1.0)] * points) for _ in range(number)]
    svg = draw_svg(chart_of(*series, bounds=(0, 1)))
    places = [float(x) for x in re.findall(r'class="whisker" x1="([^"]*)"', svg)]
    assert len(set(places)) == number * points
    assert all(42 < place < WIDTH - 10 for place in places)


def test_page_and_picture_show_the_same_points_and_intervals():
    chart = chart_of(ABOVE, BELOW, bounds=(0, 1), x_ticks={0: "none", 1: "much"}, percent=True)
    svg, axes = draw_svg(chart), drawn(chart)
    # Whiskers are 0.02 of the extent of x apart, around their x.
    shown = [collection.get_segments() for collection in axes.collections]
    assert [[tuple(map(tuple, ends)) for ends in segments] for segments in shown] == [
        [((-0.01, 0.25), (-0.01, 0.625)), ((0.99, 0.5), (0.99, 1.0))],
        [((0.01, 0.0), (0.01, 0.5)), ((1.01, 0.0), (1.01, 0.25))],
    ]
    # On the page, y = 1 is at 10 and y = 0 at 171.
    ends = re.findall(r'class="whisker".*? y1="([^"]*)" y2="([^"]*)"', svg)
    expected = [(0.25, 0.625), (0.5, 1.0), (0.0, 0.5), (0.0, 0.25)]
    assert [tuple(map(float, pair)) for pair in ends] == [
        pytest.approx((171 - 161 * low, 171 - 161 * high), abs=0.06) for low, high in expected
    ]
    assert ">none</text>" in svg and "below, much: 0.0 %" in svg
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "much"]
    assert [line.get_linestyle() for line in axes.lines if "-" in line.get_linestyle()] == [
        "-",
        "--",
    ]
    assert [svg.count(f'class="{name}"') for name in ("line", "line thin")] == [1, 1]
    low, high = axes.get_ylim()
    assert low < 0 and high > 1


def test_a_band_takes_the_place_of_whiskers_and_moves_no_point():
    chart = chart_of(ABOVE, BELOW, band=True)
    svg, axes = draw_svg(chart), drawn(chart)
    assert svg.count('class="band"') == 2 and "whisker" not in svg and "<circle" not in svg
    assert [collection.get_paths()[0].get_extents().bounds for collection in axes.collections] == [
        (0.0, 0.25, 1.0, 0.75),
        (0.0, 0.0, 1.0, 0.5),
    ]
    assert chart.places() == [ABOVE.points, BELOW.points]


def test_a_level_runs_across_at_the_first_point():
    chart = chart_of(Series("once", [(0, 0.25)], 3, level=True), ABOVE, bounds=(0, 1))
    assert re.findall(r'class="level".*?y1="([^"]*)"', draw_svg(chart)) == ["130.8"]
    level = drawn(chart).lines[0]
    assert set(level.get_ydata()) == {0.25} and level.get_color() == COLOURS[3]


def test_with_only_a_lower_bound_the_values_decide_the_upper():
    axes = drawn(chart_of(ABOVE, bounds=(0, None)))
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1
    svg = draw_svg(chart_of(Series("a", [(0, 3.0), (1, 4.0)], 0), bounds=(0, None)))
    assert ">0</text>" in svg and ">4</text>" in svg


def test_a_smooth_line_is_the_moving_mean_in_front_of_its_values():
    values = [(x, float(x % 2)) for x in range(20)]
    chart = chart_of(Series("a", values, 1), smooth=True)
    means = moving_mean(values, 2)
    # Windows of 3, 4 and 5 values.
    assert [y for _, y in means[:3]] == pytest.approx([1 / 3, 2 / 4, 2 / 5])
    assert draw_svg(chart).count('class="raw"') == 1
    dots, line = drawn(chart).lines
    assert list(dots.get_ydata()) == [y for _, y in values]
    assert list(line.get_ydata()) == [y for _, y in means]
    assert moving_mean(values, 1) == values


def test_names_are_escaped():
    svg = draw_svg(chart_of(Series("<b>", [(0, 1.0)], 0)))
    assert "<b>" not in svg and "&lt;b&gt;" in svg


def test_one_legend_names_every_line_of_the_picture(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    names = []
    save = figure.savefig

    def look(self, *args, **kwargs):
        names.extend(text.get_text() for text in self.legends[0].get_texts())
        return save(self, *args, **kwargs)

    monkeypatch.setattr(figure, "savefig", look)
    write_charts([chart_of(ABOVE, BELOW)] * 2, tmp_path / "new" / "a.png", caption="two")
    assert names == ["above", "below"]
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
