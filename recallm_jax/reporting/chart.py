"""Charts as data: lines over x, each with its intervals.

`svg` draws a chart for the page, `figure` for a picture file.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from recallm_jax.evaluation.statistics import Number

# A point is (x, y), and an interval is (low, high).
Point = tuple[Number, Number]
# The distance between whiskers of neighbouring lines: a share of the extent of x, or an amount
# if x has one value.
_APART, _APART_AT_ONE_X = 0.02, 0.17
# Lines with more points are drawn without dots.
_MOST_DOTS = 40


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
      points: at least one.
      colour: its number; the page's style sheet and `figure` have the same colours.
      intervals: one for each point, or none at all.
      thin: draw the line thinner and dashed, as for a control.
      level: draw a dotted line across the chart at the height of the first point.
    """

    name: str
    points: Sequence[Point]
    colour: int
    intervals: Sequence[Point] = ()
    thin: bool = False
    level: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over one x axis.

    Attributes:
      bounds: the lowest and the highest y; None takes it from the values.
      percent: y is a share, and is labelled in percent.
      x_ticks: the labels of the values of x; None chooses round numbers.
      smooth: draw the moving mean of each line in front of its values.
      band: draw intervals as a band, not as whiskers.
    """

    title: str
    series: Sequence[Series]
    x_label: str
    bounds: tuple[Number | None, Number | None] = (None, None)
    percent: bool = False
    x_ticks: Mapping[Number, str] | None = None
    smooth: bool = False
    band: bool = False

    @property
    def has_whiskers(self) -> bool:
        """Whether intervals are drawn, and drawn as whiskers."""
        return not self.band and any(line.intervals for line in self.series)

    def places(self) -> list[list[Point]]:
        """Return the points of each line, moved so that whiskers are side by side."""
        if not self.has_whiskers:
            return [list(line.points) for line in self.series]
        xs = [x for line in self.series for x, _ in line.points]
        extent = max(xs) - min(xs)
        apart = _APART * extent if extent > 0 else _APART_AT_ONE_X
        middle = (len(self.series) - 1) / 2
        return [
            [(x + apart * (number - middle), y) for x, y in line.points]
            for number, line in enumerate(self.series)
        ]

    def y_range(self) -> tuple[Number, Number]:
        """Return the lowest and the highest y: the bounds, or else those of the values.

        If there is one value only, the range begins at 0, as what is measured mostly does, and ends
        there.
        """
        values = [y for line in self.series for _, y in line.points]
        values += [y for line in self.series for interval in line.intervals for y in interval]
        low, high = self.bounds
        low, high = min(values) if low is None else low, max(values) if high is None else high
        if low == high:
            low, high = min(0.0, low), max(0.0, high)
        return low, high if low < high else low + 1.0

    def line(self, points: Sequence[Point]) -> list[Point]:
        """Return the points that a line is drawn through: their moving mean if `smooth`."""
        return moving_mean(points, len(points) // 10 if self.smooth else 0)

    def has_dots(self, series: Series) -> bool:
        """Whether each point of a line gets a dot."""
        return not self.band and len(series.points) <= _MOST_DOTS


def moving_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Return each point at the mean height of itself and its neighbours.

    Args:
      window: neighbours on each side; the ends have fewer. Below 2 the points stay.
    """
    if window < 2:
        return list(points)
    means: list[Point] = []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - window) : i + window + 1]
        means.append((x, sum(y for _, y in near) / len(near)))
    return means
