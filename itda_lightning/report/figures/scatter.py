"""Lay out entries as marks in a plane: with error bars, numbers beside them, lines behind them and the Pareto front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from itda_lightning.report.figures.axes import Axis, Number, Tick, error_ends, fitted_axis
from itda_lightning.report.figures.labels import Box, label_places
from itda_lightning.report.figures.methods import Method, marker
from itda_lightning.report.figures.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Plot, path_through
from itda_lightning.results.comparison import Estimate

# Radii of the marks of the narrowest and of the widest entry.
SMALLEST, LARGEST = 3.2, 6.8
# From this ratio of the largest to the smallest value on, a vertical axis is logarithmic.
LOG_FROM = 10.0
# Entries crowd at few values of L0, so they need more height than the curve of one run.
TALL = 340


@dataclass(frozen=True)
class Point:
    """An entry in the units of what is plotted.

    Attributes:
        number: its number in the table, drawn beside it.
        x, y: its values.
        method: decides the look of its mark.
        radius: of its mark.
        title: shown on hover.
        curve: more values of the same entry, drawn as a line through them.
    """

    number: int
    x: Estimate
    y: Estimate
    method: Method
    radius: float
    title: str
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Mark:
    """A drawn entry: its shape, its error bars, and the place of its number."""

    number: int
    method: Method
    shape: str
    bars: str
    title: str
    label: tuple[Number, Number]


@dataclass(frozen=True)
class Line:
    """A drawn line of one entry."""

    number: int
    method: Method
    path: str


@dataclass(frozen=True, kw_only=True)
class Scatter(Plot):
    """A plot of entries.

    Attributes:
        marks: the entries, the first below the others.
        lines: drawn behind them.
        front: the Pareto front as SVG path data, "" for none.
        rule: a horizontal line with its words, or None.
        rule_end: the words stand at its right end, not at its left.
    """

    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    front: str = ""
    rule: Tick | None = None
    rule_end: bool = True


def radius(width: int, widths: Sequence[int]) -> float:
    """Return the radius of the mark of an entry, by the logarithm of its width among those of all entries."""
    low, high = min(widths), max(widths)
    if low <= 0 or high <= low or width <= 0:
        return (SMALLEST + LARGEST) / 2
    return SMALLEST + (LARGEST - SMALLEST) * math.log(width / low) / math.log(high / low)


def pareto_front(places: Sequence[tuple[Number, Number]]) -> list[tuple[Number, Number]]:
    """Return the places, from the left, that no other place is below or left of without being above or right of."""
    front: list[tuple[Number, Number]] = []
    for x, y in sorted(set(places)):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def scatter(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    summary: str,
    log_y: bool | None = None,
    front: bool = False,
    rule: tuple[float, str] | None = None,
    width: int = WIDTH,
) -> Scatter | None:
    """Lay out entries over a logarithmic horizontal axis; leave out those whose values have no place on the axes.

    Args:
        points: the entries.
        x_label, y_label, summary: of the ``Plot``; "(log)" is added to the labels of logarithmic axes.
        log_y: makes the vertical axis logarithmic; None: if the values span a decade.
        front: draws the Pareto front; small values are better on both axes.
        rule: (value of the vertical axis, words) of a horizontal line.
        width: of the plot.

    Returns:
        The plot, or None if no entry is left.
    """
    points = [point for point in points if math.isfinite(point.y.value) and 0 < point.x.value < math.inf]
    if log_y is None:
        heights = [point.y.value for point in points]
        log_y = bool(points) and 0 < LOG_FROM * min(heights) <= max(heights)
    points = [point for point in points if point.y.value > 0 or not log_y]
    if not points:
        return None
    if rule and not (math.isfinite(rule[0]) and (rule[0] > 0 or not log_y)):
        rule = None
    plane = _plane(points, log_y, width, [rule[0]] if rule else [])
    return Scatter(
        x=plane.x,
        y=plane.y,
        x_label=f"{x_label} (log)",
        y_label=f"{y_label} (log)" if log_y else y_label,
        summary=summary,
        marks=_marks(points, plane),
        lines=tuple(
            Line(point.number, point.method, path_through([plane.place(*values) for values in values_of_line]))
            for point in points
            if len(values_of_line := _drawable(point.curve, log_y)) > 1
        ),
        front=_staircase(points, plane) if front else "",
        rule=Tick(plane.y.place(rule[0]), rule[1]) if rule else None,
    )


class _Plane(NamedTuple):
    """Both axes of a scatter plot."""

    x: Axis
    y: Axis

    def place(self, x: Number, y: Number) -> tuple[float, float]:
        return self.x.place(x), self.y.place(y)


def _plane(points: Sequence[Point], log_y: bool, width: int, rules: Sequence[Number]) -> _Plane:
    """Return axes with room for marks, for vertical error bars, for lines and for rules."""
    on_lines = [values for point in points for values in _drawable(point.curve, log_y)]
    across = [*(point.x.value for point in points), *(x for x, _ in on_lines)]
    upward = [*(end for point in points for end in error_ends(point.y, log=log_y)), *(y for _, y in on_lines), *rules]
    return _Plane(
        fitted_axis(across, LEFT, width - RIGHT, log=True), fitted_axis(upward, TALL - BOTTOM, TOP, log=log_y)
    )


def _marks(points: Sequence[Point], plane: _Plane) -> tuple[Mark, ...]:
    """Return the marks, large ones first, so that none hides a smaller one."""
    places = [plane.place(point.x.value, point.y.value) for point in points]
    columns = [[plane.y.place(end) for end in error_ends(point.y, log=plane.y.log)] for point in points]
    bars: list[Box] = [(x - 1, high, x + 1, low) for (x, _), (low, high) in zip(places, columns, strict=True)]
    labels = label_places(
        [(*place, point.radius) for place, point in zip(places, points, strict=True)],
        bars,
        [str(point.number) for point in points],
        (LEFT, 0, plane.x.end + RIGHT, plane.y.start),
    )
    marks = []
    for point, (x, y), (low, high), label in zip(points, places, columns, labels, strict=True):
        left, right = map(plane.x.place, error_ends(point.x, log=True))
        path = (f"M{x} {low}V{high}" if low > high else "") + (f"M{left} {y}H{right}" if right > left else "")
        shape = marker(point.method.shape, x, y, point.radius)
        marks.append((point.radius, Mark(point.number, point.method, shape, path, point.title, label)))
    return tuple(mark for _, mark in sorted(marks, key=lambda pair: -pair[0]))


def _drawable(curve: Sequence[tuple[float, float]], log_y: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in curve if 0 < x < math.inf and math.isfinite(y) and (y > 0 or not log_y)]


def _staircase(points: Sequence[Point], plane: _Plane) -> str:
    """Return a path from each place of the front to the right, then down to the next."""
    front = pareto_front([(point.x.value, point.y.value) for point in points])
    first, *others = [plane.place(*values) for values in front]
    return f"M{first[0]} {first[1]}" + "".join(f"H{x}V{y}" for x, y in others) + f"H{plane.x.end}"
