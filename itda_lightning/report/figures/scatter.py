"""Lay out entries as marks in a plane: with error bars, numbers beside them, lines behind them and the Pareto front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from itda_lightning.report.figures.axes import Axis, Number, Tick, error_ends, fitted_axis
from itda_lightning.report.figures.methods import Method, marker
from itda_lightning.report.figures.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Plot, path_through
from itda_lightning.results.comparison import Estimate

# Radii of the marks of the narrowest and of the widest entry.
SMALLEST, LARGEST = 3.2, 6.8
# From this ratio of the largest to the smallest value on, a vertical axis is logarithmic.
LOG_FROM = 10.0
# Entries crowd at few values of L0, so they need more height than the curve of one run.
TALL = 340
# Where a number may stand, in the order tried: (right, down) in units of the distance from the mark's centre.
PLACES = ((1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1.3), (0, 1.3), (1.3, 0), (-1.3, 0))
CHARACTER, LINE = 5.2, 8.0
# How much a number outside the plot weighs, in units of covered area.
OUTSIDE = 50

# Left, top, right, bottom.
Box = tuple[Number, Number, Number, Number]


class Point(NamedTuple):
    """An entry in the units of what is plotted; ``curve`` holds more of its values, drawn as a line through them."""

    number: int
    x: Estimate
    y: Estimate
    method: Method
    radius: float
    title: str
    curve: Sequence[tuple[Number, Number]] = ()


class Mark(NamedTuple):
    """A drawn entry: its shape, its error bars, and the place of its number."""

    number: int
    method: Method
    shape: str
    bars: str
    title: str
    label: tuple[Number, Number]


class Line(NamedTuple):
    """A drawn line of one entry."""

    number: int
    method: Method
    path: str


@dataclass(frozen=True, kw_only=True)
class Scatter(Plot):
    """A plot of entries, with lines behind them, the Pareto front as a path, and a horizontal rule with words.

    The words stand at the rule's right end if ``rule_end``, else at its left.
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

    Return None if none is left. The vertical axis is logarithmic if ``log_y``, or by default if the values span a
    decade. Small values are better on both axes of a ``front``; a ``rule`` is a value of the vertical axis with words.
    """
    points = [point for point in points if math.isfinite(point.y.value) and 0 < point.x.value < math.inf]
    if log_y is None:
        heights = [point.y.value for point in points]
        log_y = bool(points) and 0 < LOG_FROM * min(heights) <= max(heights)
    points = [point for point in points if point.y.value > 0 or not log_y]
    if not points:
        return None
    if rule and log_y and rule[0] <= 0:
        rule = None
    curves = [
        [(x, y) for x, y in point.curve if 0 < x < math.inf and math.isfinite(y) and (y > 0 or not log_y)]
        for point in points
    ]
    across = [*(point.x.value for point in points), *(x for curve in curves for x, _ in curve)]
    upward = [*(end for point in points for end in error_ends(point.y, log=log_y)), *([rule[0]] if rule else [])]
    upward += [y for curve in curves for _, y in curve]
    x = fitted_axis(across, LEFT, width - RIGHT, log=True)
    y = fitted_axis(upward, TALL - BOTTOM, TOP, log=log_y)
    return Scatter(
        x=x,
        y=y,
        x_label=f"{x_label} (log)",
        y_label=f"{y_label} (log)" if log_y else y_label,
        summary=summary,
        marks=_marks(points, x, y),
        lines=tuple(
            Line(point.number, point.method, path_through(x, y, curve))
            for point, curve in zip(points, curves, strict=True)
            if len(curve) > 1
        ),
        front=_staircase(points, x, y) if front else "",
        rule=Tick(y.place(rule[0]), rule[1]) if rule else None,
    )


def _marks(points: Sequence[Point], x: Axis, y: Axis) -> tuple[Mark, ...]:
    """Return the marks, large ones first, so that none hides a smaller one."""
    marks = []
    places = [(x.place(point.x.value), y.place(point.y.value)) for point in points]
    columns = [tuple(map(y.place, error_ends(point.y, log=y.log))) for point in points]
    labels = _label_places(points, places, columns, (LEFT, 0, x.end + RIGHT, y.start))
    for point, (across, up), (low, high), label in zip(points, places, columns, labels, strict=True):
        left, right = map(x.place, error_ends(point.x, log=True))
        bars = (f"M{across} {low}V{high}" if low > high else "") + (f"M{left} {up}H{right}" if right > left else "")
        shape = marker(point.method.shape, across, up, point.radius)
        marks.append((point.radius, Mark(point.number, point.method, shape, bars, point.title, label)))
    return tuple(mark for _, mark in sorted(marks, key=lambda pair: -pair[0]))


def _label_places(
    points: Sequence[Point], places: Sequence[tuple[float, float]], columns: Sequence[tuple[float, ...]], frame: Box
) -> list[tuple[float, float]]:
    """Return the middle of each number: beside its mark, clear of marks, error bars and numbers, inside the frame."""
    boxes: list[Box] = [
        (x - point.radius, y - point.radius, x + point.radius, y + point.radius)
        for point, (x, y) in zip(points, places, strict=True)
    ]
    bars: list[Box] = [(x - 1, high, x + 1, low) for (x, _), (low, high) in zip(places, columns, strict=True)]
    labels = []
    for index, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
        half, best = CHARACTER * len(str(point.number)) / 2, (math.inf, (x, y))
        others = [*boxes[:index], *boxes[index + 1 :], *bars]
        for rank, (aside, down) in enumerate(PLACES):
            centre = (x + aside * (0.8 * point.radius + half), y + down * (0.8 * point.radius + LINE / 2))
            box = _around(centre, half)
            outside = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
            covered = sum(_overlap(box, other) for other in others)
            best = min(best, (covered + OUTSIDE * outside + 0.1 * rank, centre))
        boxes.append(_around(best[1], half))
        labels.append((round(best[1][0], 1), round(best[1][1], 1)))
    return labels


def _around(centre: tuple[float, float], half: float) -> Box:
    return (centre[0] - half, centre[1] - LINE / 2, centre[0] + half, centre[1] + LINE / 2)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def _staircase(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Return a path from each place of the front to the right, then down to the next."""
    (start, top), *others = pareto_front([(point.x.value, point.y.value) for point in points])
    steps = "".join(f"H{x.place(right)}V{y.place(low)}" for right, low in others)
    return f"M{x.place(start)} {y.place(top)}{steps}H{x.end}"
