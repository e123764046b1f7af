"""Line charts and intervals as inline SVG; colours come from the page's style sheet."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

# Steps and lengths are whole, and a type checker at run time holds ints apart from floats.
Number = int | float
WIDTH, HEIGHT = 330, 205
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 34


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
      points: (x, y).
      style: class of the style sheet that gives the colour.
      intervals: (low, high) of each point; none where empty.
    """

    name: str
    points: Sequence[tuple[Number, Number]]
    style: str
    intervals: Sequence[tuple[Number, Number]] = ()


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    bounds: tuple[Number, Number] | None = None,
    percent: bool = False,
    x_ticks: Sequence[Number] | None = None,
    x_names: Mapping[Number, str] | None = None,
    smooth: bool = False,
) -> Markup:
    """Draw lines over x, with dots where they are few and whiskers where intervals are given.

    Args:
      bounds: of y; None takes those of the values.
      percent: y is a share.
      x_ticks: where x is labelled; None chooses.
      x_names: labels of values of x that are not shown as the numbers they are.
      smooth: with many points, draw their moving mean and the values behind it.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    ys += [y for line in series for interval in line.intervals for y in interval]
    low, high = bounds or (min(ys), max(ys))
    y_ticks = _ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    x_ticks = list(x_ticks) if x_ticks is not None else _ticks(min(xs), max(xs), whole=True)
    left, right = min(*xs, *x_ticks), max(*xs, *x_ticks)
    if left == right:
        left, right = left - 1, right + 1
    if any(line.intervals for line in series):
        # Room for the whiskers at both ends.
        left, right = left - 0.06 * (right - left), right + 0.06 * (right - left)
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place_x(x: Number) -> Number:
        return _LEFT + inner_width * (x - left) / (right - left)

    def place_y(y: Number) -> Number:
        return _TOP + inner_height * (high - y) / (high - low)

    def name_x(x: Number) -> str:
        return (x_names or {}).get(x) or _short(x)

    parts = []
    for tick in y_ticks:
        y = place_y(tick)
        label = f"{100 * tick:.0f} %" if percent else _short(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
        )
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
            f"{escape(name_x(tick))}</text>"
        )
    parts.append(
        f'<text class="axis" x="{_LEFT + inner_width / 2:.1f}" y="{HEIGHT - 3}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    for number, line in enumerate(series):
        # Whiskers of several lines stand side by side.
        apart = (5 if len(set(xs)) > 1 else 24) if line.intervals else 0
        shift = apart * (number - (len(series) - 1) / 2)
        places = [(place_x(x) + shift, place_y(y)) for x, y in line.points]
        parts.append(f'<g class="{line.style}">')
        window = max(1, len(places) // 10) if smooth else 1
        if window > 1:
            parts.append(f'<polyline class="raw" points="{_points(places)}"/>')
        parts.append(f'<polyline class="line" points="{_points(moving_mean(places, window))}"/>')
        for (x, _), (y_low, y_high) in zip(places, line.intervals, strict=False):
            parts.append(
                f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{place_y(y_low):.1f}" y2="{place_y(y_high):.1f}"/>'
            )
        if len(places) <= 40:
            for (x, y), (step, value) in zip(places, line.points, strict=True):
                shown = f"{100 * value:.1f} %" if percent else f"{value:.4g}"
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6">'
                    f"<title>{escape(line.name)}, {escape(name_x(step))}: {shown}</title></circle>"
                )
        parts.append("</g>")
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    )


def interval_bar(value: Number, low: Number, high: Number, style: str) -> Markup:
    """Draw a share with its interval on a scale from 0 to 1."""
    width, height = 150, 16

    def place(share: Number) -> Number:
        return 4 + (width - 8) * share

    ticks = "".join(
        f'<line class="grid" x1="{place(t):.1f}" x2="{place(t):.1f}" y1="2" y2="{height - 2}"/>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    return Markup(
        f'<svg class="interval {style}" viewBox="0 0 {width} {height}" aria-hidden="true">{ticks}'
        f'<line class="whisker" x1="{place(low):.1f}" x2="{place(high):.1f}" '
        f'y1="{height / 2}" y2="{height / 2}"/>'
        f'<circle cx="{place(value):.1f}" cy="{height / 2}" r="4"/></svg>'
    )


def _points(places: Sequence[tuple[Number, Number]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def moving_mean(
    places: Sequence[tuple[Number, Number]], window: int
) -> list[tuple[Number, Number]]:
    """Return each place with the mean height of its neighbours; the ends have fewer."""
    means = []
    for i, (x, _) in enumerate(places):
        near = places[max(0, i - window) : i + window + 1] if window > 1 else [places[i]]
        means.append((x, sum(y for _, y in near) / len(near)))
    return means


def _ticks(low: Number, high: Number, *, whole: bool = False) -> list[Number]:
    """Return three to six round numbers that span low to high."""
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
