"""Charts and intervals as inline SVG; the page's style sheet gives the colours."""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from recallm_jax.evaluation.statistics import Number
from recallm_jax.reporting.chart import Chart, Point, Series

WIDTH, HEIGHT = 330, 205
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 34


def draw_svg(chart: Chart) -> Markup:
    """Draw a chart: axes, then each line with its dots and intervals."""
    y_ticks, low, high = _y_axis(chart)
    x_ticks, left, right = _x_axis(chart)
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(point: Point) -> Point:
        x, y = point
        return (
            _LEFT + inner_width * (x - left) / (right - left),
            _TOP + inner_height * (high - y) / (high - low),
        )

    parts = []
    for tick in y_ticks:
        _, y = place((left, tick))
        label = f"{100 * tick:.0f} %" if chart.percent else _short(tick)
        parts += [_across("grid", y), _text("tick", _LEFT - 6, y + 3.5, label, "end")]
    for tick in x_ticks:
        x, _ = place((tick, low))
        parts.append(_text("tick", x, HEIGHT - _BOTTOM + 15, _x_name(chart, tick)))
    parts.append(_text("axis", _LEFT + inner_width / 2, HEIGHT - 3, chart.x_label))
    for series, points in zip(chart.series, chart.places(), strict=True):
        parts.append(f'<g class="s{series.colour}">')
        parts += _draw_series(chart, series, points, place)
        parts.append("</g>")
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    )


def _draw_series(
    chart: Chart, series: Series, points: Sequence[Point], place: Callable[[Point], Point]
) -> list[str]:
    parts = []
    if series.level:
        parts.append(_across("level", place(points[0])[1]))
    if series.intervals:
        lows, highs = (
            [place((x, bound)) for (x, _), bound in zip(points, bounds, strict=True)]
            for bounds in zip(*series.intervals, strict=True)
        )
        if chart.band:
            parts.append(f'<polygon class="band" points="{_joined([*lows, *reversed(highs)])}"/>')
        else:
            parts += [
                f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
                for (x, low), (_, high) in zip(lows, highs, strict=True)
            ]
    places = [place(point) for point in points]
    line = [place(point) for point in chart.line(points)]
    if line != places:
        parts.append(f'<polyline class="raw" points="{_joined(places)}"/>')
    style = "line thin" if series.thin else "line"
    parts.append(f'<polyline class="{style}" points="{_joined(line)}"/>')
    if chart.has_dots(series):
        for (x, y), (true_x, value) in zip(places, series.points, strict=True):
            shown = f"{100 * value:.1f} %" if chart.percent else f"{value:.4g}"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{escape(series.name)}, '
                f"{escape(_x_name(chart, true_x))}: {shown}</title></circle>"
            )
    return parts


def _y_axis(chart: Chart) -> tuple[list[Number], Number, Number]:
    """Return the ticks of y, and the lowest and highest y of the drawing."""
    low, high = chart.y_range()
    ticks = _ticks(low, high)
    return ticks, min(low, ticks[0]), max(high, ticks[-1])


def _x_axis(chart: Chart) -> tuple[list[Number], Number, Number]:
    """Return the ticks of x, and the lowest and highest x of the drawing."""
    xs = [x for points in chart.places() for x, _ in points]
    ticks = list(chart.x_ticks or _ticks(min(xs), max(xs), whole=True))
    left, right = min(*xs, *ticks), max(*xs, *ticks)
    if left == right:
        left, right = left - 1, right + 1
    # Whiskers need room at both ends.
    room = 0.04 * (right - left) if chart.has_whiskers else 0
    return ticks, left - room, right + room


def _x_name(chart: Chart, x: Number) -> str:
    return (chart.x_ticks or {}).get(x) or _short(x)


def _across(style: str, y: Number) -> str:
    return f'<line class="{style}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(style: str, x: Number, y: Number, text: str, anchor: str = "middle") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _joined(places: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _ticks(low: Number, high: Number, *, whole: bool = False) -> list[Number]:
    """Return three to six round numbers that span low to high or, with `whole`, lie between."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1, round(step))
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _short(value: Number) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def parts_bar(parts: Mapping[str, float], colours: Mapping[str, int]) -> Markup:
    """Draw a bar whose parts are as wide as their shares of the sum."""
    width, height = 150, 16
    total = sum(parts.values()) or 1.0
    drawn, x = [], 0.0
    for name, value in parts.items():
        share = value / total
        drawn.append(
            f'<rect class="s{colours[name]}" x="{x:.1f}" y="3" width="{width * share:.1f}" '
            f'height="{height - 6}"><title>{escape(name)}: {100 * share:.0f} %</title></rect>'
        )
        x += width * share
    return Markup(
        f'<svg class="parts" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="none">{"".join(drawn)}</svg>'
    )


_SHARES = {0.0: "0", 0.25: "", 0.5: "50", 0.75: "", 1.0: "100 %"}
_BAR_WIDTH, _BAR_HEIGHT = 150, 16


def _along_bar(share: Number) -> Number:
    return 4 + (_BAR_WIDTH - 8) * share


def share_scale() -> Markup:
    """Draw the scale of `interval_bar`: 0 to 100 %."""
    names = "".join(
        _text("tick", _along_bar(share), 12, name, anchor)
        for (share, name), anchor in zip(
            _SHARES.items(), ("start", *3 * ("middle",), "end"), strict=True
        )
        if name
    )
    return Markup(f'<svg viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}" role="img">{names}</svg>')


def interval_bar(value: Number, low: Number, high: Number, colour: int) -> Markup:
    """Draw a share with its interval on a scale from 0 to 1."""
    height, place = _BAR_HEIGHT, _along_bar
    ticks = "".join(
        f'<line class="grid" x1="{place(t):.1f}" x2="{place(t):.1f}" y1="2" y2="{height - 2}"/>'
        for t in _SHARES
    )
    return Markup(
        f'<svg class="interval s{colour}" viewBox="0 0 {_BAR_WIDTH} {height}" aria-hidden="true">'
        f'{ticks}<line class="whisker" x1="{place(low):.1f}" x2="{place(high):.1f}" '
        f'y1="{height / 2}" y2="{height / 2}"/>'
        f'<circle cx="{place(value):.1f}" cy="{height / 2}" r="4"/></svg>'
    )
