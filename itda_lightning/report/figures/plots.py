"""Lay out curves and histograms, in the units of an SVG view box. The template draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from itda_lightning.report.figures.axes import Axis, Number, round_values, round_values_within
from itda_lightning.report.words.wording import show_number, show_share

WIDTH, HEIGHT = 420, 260
# On the left a turned label and numbers such as 0.035.
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 44
# A curve with more points than pixels is thinned; the ends stay.
MAX_POINTS = 500
# Up to this many points are marked, each with its value on hover.
MAX_MARKERS = 60


class Bar(NamedTuple):
    """A bar of a histogram, with what it counts."""

    x: Number
    y: Number
    width: Number
    height: Number
    title: str


class Marker(NamedTuple):
    """A marked point of a curve, with its value."""

    x: Number
    y: Number
    title: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with a curve (``path``) or bars; the summary is a sentence for readers who do not see it."""

    x: Axis
    y: Axis
    x_label: str
    y_label: str
    summary: str
    path: str = ""
    bars: tuple[Bar, ...] = ()
    markers: tuple[Marker, ...] = ()

    @property
    def width(self) -> Number:
        return self.x.end + RIGHT

    @property
    def height(self) -> Number:
        return self.y.start + BOTTOM


def curve(points: Sequence[tuple[int, Number]], y_label: str, name: str) -> Plot | None:
    """Lay out a quantity against activations read, from zero; return None without finite points."""
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return None
    if len(points) > MAX_POINTS:
        points = [points[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
    (tokens, first), (last_tokens, last) = points[0], points[-1]
    # The x axis ends with the data, the y axis with a round value.
    x = Axis(0, last_tokens, LEFT, WIDTH - RIGHT).with_ticks(round_values_within(0, last_tokens))
    y = upright_axis(round_values(0, max(value for _, value in points)))
    markers = tuple(
        Marker(x.place(read), y.place(value), f"{name} {show_number(value)} after {read:,} activations")
        for read, value in points
    )
    return Plot(
        x=x,
        y=y,
        x_label="activations read",
        y_label=y_label,
        summary=f"{name} {show_number(first)} after {tokens:,} activations, {show_number(last)} after {last_tokens:,}.",
        path=path_through(x, y, points),
        markers=markers if len(markers) <= MAX_MARKERS else (),
    )


def l0_plot(counts: Sequence[int]) -> Plot:
    """Lay out how many tokens use 0, 1, ..., k distinct atoms."""
    total, k = sum(counts), len(counts) - 1
    mean = sum(l0 * count for l0, count in enumerate(counts)) / total
    ticks = [value for value in round_values_within(0, k) if value == int(value)]
    return histogram(
        Axis(-0.5, k + 0.5, LEFT, WIDTH - RIGHT).with_ticks(ticks),
        [l0 - 0.5 for l0 in range(k + 2)],
        counts,
        [f"L0 = {l0}: {count:,} tokens ({show_share(count / total)})" for l0, count in enumerate(counts)],
        x_label="L0: distinct atoms in a code",
        y_label="tokens",
        summary=f"L0 of {total:,} tokens, {show_number(mean)} on average, at most {k}.",
    )


def unexplained_plot(counts: Sequence[int]) -> Plot:
    """Lay out how many tokens are left unexplained by what share, in equal bins from 0 to 1."""
    total, edges = sum(counts), [place / len(counts) for place in range(len(counts) + 1)]
    titles = [
        f"{count:,} tokens ({show_share(count / total)}) with {show_share(low)} to {show_share(high)} unexplained"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    half, middle = 0, 0.0
    for low, count in zip(edges, counts, strict=False):
        if half < total / 2 <= half + count:
            middle = low
        half += count
    return histogram(
        Axis(0, 1, LEFT, WIDTH - RIGHT).with_ticks(round_values_within(0, 1)),
        edges,
        counts,
        titles,
        x_label="share of a token's activation left unexplained",
        y_label="tokens",
        summary=f"Unexplained shares of {total:,} tokens; the median lies between {show_share(middle)} and "
        f"{show_share(middle + 1 / len(counts))}.",
    )


def histogram(
    x: Axis,
    edges: Sequence[Number],
    counts: Sequence[int],
    titles: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    summary: str,
) -> Plot:
    """Lay out one bar per count that is not 0, between consecutive edges, each with a title."""
    y = upright_axis([value for value in round_values(0, max(counts)) if value == int(value)])
    gap = 1.5 if len(counts) <= 100 else 0.0
    bars = []
    for start, end, count, title in zip(edges, edges[1:], counts, titles, strict=False):
        if count:
            left, top = x.place(start), y.place(count)
            bars.append(Bar(left, top, round(x.place(end) - left - gap, 2), round(y.start - top, 2), title))
    return Plot(x=x, y=y, x_label=x_label, y_label=y_label, summary=summary, bars=tuple(bars))


def upright_axis(values: Sequence[Number]) -> Axis:
    """Return a vertical axis from zero to the last of the round values, with a tick at each."""
    return Axis(0, values[-1], HEIGHT - BOTTOM, TOP).with_ticks(values)


def path_through(x: Axis, y: Axis, points: Sequence[tuple[Number, Number]]) -> str:
    """Return SVG path data of a line through points."""
    return "M" + "L".join(f"{x.place(across)} {y.place(up)}" for across, up in points)
