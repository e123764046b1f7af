"""Charts as a picture file, for places that show no HTML; needs matplotlib."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from recallm_jax.reporting.chart import Chart
from recallm_jax.runtime.errors import UserError
from storage.files import Path, as_path, make_folder, written_whole

# The colours of the style sheet, in its order.
COLOURS = ("#7b8494", "#2166c9", "#d9670b", "#7b3fb5", "#14825a", "#b5255e", "#8a6d00", "#0b7f93")
# matplotlib may be missing, so its types can't be named.
Axes = Any
# Width and height in inches: of all axes together, and the width of the legend beside them.
_ONE, _SEVERAL, _LEGEND = (5.4, 4.2), (10.0, 3.8), 2.2


def check_figure(path: str | Path) -> None:
    """Refuse a picture that can't be drawn, before the work that it shows.

    Raises:
      UserError: matplotlib is missing, or the file's ending names no kind of picture.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "--figure needs matplotlib; install it with pip install -e '.[report]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    kinds = sorted(Figure().canvas.get_supported_filetypes())
    if _kind(path) not in kinds:
        raise UserError(
            f"--figure={path} must end in a kind of picture: any of .{', .'.join(kinds)}"
        )


def write_charts(charts: Sequence[Chart], path: str | Path, *, caption: str = "") -> None:
    """Draw charts of the same series side by side, with one legend; a missing folder is made.

    Raises:
      UserError: see `check_figure`.
    """
    with figure_file(path, len(charts), legend=len(charts[0].series) > 1) as (figure, all_axes):
        for axes, chart in zip(all_axes, charts, strict=True):
            draw_chart(axes, chart)
        if len(charts[0].series) > 1:
            figure.legend(
                *all_axes[0].get_legend_handles_labels(),
                loc="outside right center",
                fontsize=8,
                frameon=False,
            )
        figure.suptitle(caption, fontsize=9)


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw a chart on matplotlib axes."""
    for series, points in zip(chart.series, chart.places(), strict=True):
        colour = COLOURS[series.colour]
        xs, ys = zip(*points, strict=True)
        if series.level:
            axes.axhline(ys[0], color=colour, linewidth=0.8, linestyle=":")
        if series.intervals:
            lows, highs = zip(*series.intervals, strict=True)
            if chart.band:
                axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
            else:
                axes.vlines(xs, lows, highs, color=colour, linewidth=0.8)
        if chart.has_dots(series) or chart.smooth:
            size, alpha = (2.5, 0.4) if chart.smooth else (3.5 if series.thin else 5, 1)
            axes.plot(xs, ys, "o", color=colour, markersize=size, alpha=alpha)
        axes.plot(
            *zip(*chart.line(points), strict=True),
            color=colour,
            linewidth=1 if series.thin else 1.8,
            linestyle="--" if series.thin else "-",
            label=series.name,
        )
    axes.set_title(chart.title, fontsize=10)
    low, high = chart.bounds
    if low == high and len({y for series in chart.series for _, y in series.points}) == 1:
        low, high = chart.y_range()
    if low is not None and high is not None:
        # Dots on a bound need room.
        room = 0.02 * (high - low)
        low, high = low - room, high + room
    axes.set(xlabel=chart.x_label, ylim=(low, high))
    if chart.percent:
        show_percent(axes)
    if chart.x_ticks is not None:
        axes.set_xticks(list(chart.x_ticks), list(chart.x_ticks.values()))


def show_percent(axes: Axes) -> None:
    """Label y in percent."""
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")


@contextmanager
def figure_file(
    path: str | Path, columns: int, *, legend: bool = False
) -> Iterator[tuple[Any, Sequence[Axes]]]:
    """Make a figure and its axes, side by side; write them, whole, when the block ends.

    A missing folder is made.

    Args:
      legend: leave room for a legend beside the axes.

    Raises:
      UserError: see `check_figure`.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    width, height = _ONE if columns == 1 else _SEVERAL
    figure = Figure(figsize=(width + _LEGEND * legend, height), layout="constrained")
    all_axes = figure.subplots(1, columns, squeeze=False)[0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    yield figure, all_axes
    target = as_path(path)
    make_folder(target.parent)
    with written_whole(target) as file:
        figure.savefig(file, dpi=150, format=_kind(path))


def _kind(path: str | Path) -> str:
    return PurePath(path).suffix.lower().removeprefix(".")
