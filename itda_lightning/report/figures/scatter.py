"""Entries as marks in a plane: with error bars, numbers beside them, lines behind them and the Pareto front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from itda_lightning.report.figures.axes import Axis, fitted_axis
from itda_lightning.report.figures.methods import Method, marker
from itda_lightning.report.figures.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Number, Plot, Tick
from itda_lightning.results.comparison import Estimate

# Left, top, right, bottom.
Box = tuple[float, float, float, float]
# Radii of the marks of the narrowest and of the widest entry.
SMALLEST, LARGEST = 3.2, 6.8
# Where the number of a mark may stand, in the order tried: (right, down) in units of the distance from its centre.
PLACES = ((1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1.3), (0, 1.3), (1.3, 0), (-1.3, 0))
CHARACTER, LINE = 5.2, 8.0
# From this ratio of the largest to the smallest value on, a vertical axis is logarithmic.
LOG_FROM = 10.0
# Entries crowd at few values of L0, so there is more room for them upwards than in a run's plots.
TALL = 340


@dataclass(frozen=True)
class Point:
    """An entry in the plot's own values.

    Attributes:
        number: what stands beside it, its number in the table.
        radius: of its mark.
        title: what is told of it on hover.
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
    """A drawn entry: its shape, its error bars, and where its number stands (None where there is none)."""

    number: int
    method: Method
    shape: str
    bars: str
    title: str
    label: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A drawn line of one entry."""

    number: int
    method: Method
    path: str


@dataclass(frozen=True)
class Scatter(Plot):
    """A plot of entries.

    Attributes:
        front: the Pareto front as SVG path data, "" for none.
        rule: a horizontal line with its words, or None.
        rule_end: whether the words stand at its right end.
    """

    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    front: str = ""
    rule: Tick | None = None
    rule_end: bool = True


def radius(width: int, widths: Sequence[int]) -> float:
    """The radius of an entry of this width, by the logarithm, among entries of these widths."""
    low, high = min(widths), max(widths)
    if low <= 0 or high <= low or width <= 0:
        return (SMALLEST + LARGEST) / 2
    return SMALLEST + (LARGEST - SMALLEST) * math.log(width / low) / math.log(high / low)


def pareto_front(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those places that no other is at most as far along both axes and less along one, from the left."""
    front: list[tuple[float, float]] = []
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
    """Entries over a logarithmic horizontal axis; those without a finite value, or none that has a logarithm, are left out.

    Args:
        points: the entries.
        x_label, y_label, summary: as of a ``Plot``; "(log)" is added to the labels of logarithmic axes.
        log_y: whether the vertical axis is logarithmic; None for where the values span a decade.
        front: whether the Pareto front is drawn, small values being the better ones on both axes.
        rule: a value of the vertical axis to draw a line at, with its words.
        width: of the plot.

    Returns:
        The plot, or None where no entry is left.
    """
    points = [point for point in points if math.isfinite(point.y.value) and 0 < point.x.value < math.inf]
    heights = [point.y.value for point in points]
    if log_y is None:
        log_y = bool(points) and 0 < LOG_FROM * min(heights) <= max(heights)
    if log_y:
        points = [point for point in points if point.y.value > 0]
    if not points:
        return None
    lines = {point.number: _drawable(point.curve, log_y) for point in points}
    every_line = [place for line in lines.values() for place in line]
    right, bottom = width - RIGHT, TALL - BOTTOM
    x = fitted_axis([*(p.x.value for p in points), *(place[0] for place in every_line)], LEFT, right, log=True)
    ends = [end for p in points for end in _ends(p.y, log_y)]
    ruled = [rule[0]] if rule and math.isfinite(rule[0]) and (rule[0] > 0 or not log_y) else []
    y = fitted_axis([*ends, *(place[1] for place in every_line), *ruled], bottom, TOP, log=log_y)
    placed = [(x.place(point.x.value), y.place(point.y.value)) for point in points]
    labels = number_places(
        [(across, up, point.radius) for (across, up), point in zip(placed, points, strict=True)],
        [_bar_box(point, x, y, log_y) for point in points],
        [str(point.number) for point in points],
        width,
        bottom,
    )
    marks = [
        Mark(
            point.number,
            point.method,
            marker(point.method.shape, *place, point.radius),
            _bars(point, x, y, log_y),
            point.title,
            label,
        )
        for point, place, label in zip(points, placed, labels, strict=True)
    ]
    # Large marks first, so that none hides a smaller one.
    order = sorted(range(len(points)), key=lambda index: -points[index].radius)
    return Scatter(
        x_label=f"{x_label} (log)",
        y_label=f"{y_label} (log)" if log_y else y_label,
        summary=summary,
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        marks=tuple(marks[index] for index in order),
        lines=tuple(
            Line(
                point.number, point.method, "M" + "L".join(f"{x.place(a)} {y.place(b)}" for a, b in lines[point.number])
            )
            for point in points
            if len(lines[point.number]) > 1
        ),
        front=_staircase(points, x, y, right) if front else "",
        rule=Tick(y.place(ruled[0]), rule[1]) if rule and ruled else None,
        width=width,
        height=TALL,
        right=right,
        bottom=bottom,
    )


def number_places(
    marks: Sequence[tuple[float, float, float]],
    bars: Sequence[Box],
    texts: Sequence[str],
    right: Number,
    bottom: Number,
) -> list[tuple[float, float]]:
    """Where the middle of each text stands, beside its mark (x, y, radius): where there is room, clear of all others."""
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in marks]
    places = []
    for index, ((x, y, r), text) in enumerate(zip(marks, texts, strict=True)):
        half, best = CHARACTER * len(text) / 2, (math.inf, (x, y))
        others = [*taken[:index], *taken[index + 1 :], *bars]
        for rank, (aside, down) in enumerate(PLACES):
            centre = (x + aside * (0.8 * r + half), y + down * (0.8 * r + LINE / 2))
            box = _around(centre, half)
            outside = 50 * (box[0] < LEFT or box[2] > right or box[1] < 0 or box[3] > bottom)
            best = min(best, (sum(_overlap(box, other) for other in others) + outside + 0.1 * rank, centre))
        taken.append(_around(best[1], half))
        places.append((round(best[1][0], 1), round(best[1][1], 1)))
    return places


def _around(centre: tuple[float, float], half: float) -> Box:
    return (centre[0] - half, centre[1] - LINE / 2, centre[0] + half, centre[1] + LINE / 2)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def _drawable(curve: Sequence[tuple[float, float]], log_y: bool) -> list[tuple[float, float]]:
    return [(a, b) for a, b in curve if 0 < a < math.inf and math.isfinite(b) and (b > 0 or not log_y)]


def _ends(value: Estimate, log: bool) -> tuple[float, float]:
    """The ends of an error bar; on a logarithmic axis one that would reach zero stops at a tenth of the value."""
    error = value.error if value.error is not None and math.isfinite(value.error) else 0.0
    low = value.value - error
    return (max(low, value.value / 10) if log else low), value.value + error


def _bars(point: Point, x: Axis, y: Axis, log_y: bool) -> str:
    across, up = x.place(point.x.value), y.place(point.y.value)
    (left, right), (low, high) = _ends(point.x, True), _ends(point.y, log_y)
    path = ""
    if high > low:
        path += f"M{across} {y.place(low)}V{y.place(high)}"
    if right > left:
        path += f"M{x.place(left)} {up}H{x.place(right)}"
    return path


def _bar_box(point: Point, x: Axis, y: Axis, log_y: bool) -> Box:
    """The room that a vertical error bar takes."""
    across, (low, high) = x.place(point.x.value), _ends(point.y, log_y)
    return (across - 1, y.place(high), across + 1, y.place(low))


def _staircase(points: Sequence[Point], x: Axis, y: Axis, right: Number) -> str:
    """What can be had: from each place of the front to the right, then down to the next."""
    front = pareto_front([(point.x.value, point.y.value) for point in points])
    first, *others = [(x.place(a), y.place(b)) for a, b in front]
    return f"M{first[0]} {first[1]}" + "".join(f"H{across}V{up}" for across, up in others) + f"H{right}"
