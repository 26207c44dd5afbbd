"""The geometry of the page's plots: what to draw where, in the units of an SVG view box. The template draws it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from itda_lightning.report.words.wording import show_amount, show_number, show_share

Number = float | int

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 44
# A curve with more points than pixels is thinned; the ends stay.
MAX_POINTS = 500
# Up to this many points are marked, each with its value on hover.
MAX_MARKERS = 60


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, with what it counts."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Marker:
    """A marked point of a curve, with its value."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Plot:
    """One plot: axes, and a curve or bars.

    Attributes:
        summary: one sentence that says what the plot shows, for readers who do not see it.
        path: the curve as SVG path data, "" for none.
    """

    x_label: str
    y_label: str
    summary: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    path: str = ""
    bars: tuple[Bar, ...] = ()
    markers: tuple[Marker, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Scale:
    """A linear map from values to view-box units."""

    low: Number
    high: Number
    start: Number
    end: Number

    def __call__(self, value: Number) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, values: Sequence[Number]) -> tuple[Tick, ...]:
        """A tick for each value."""
        return tuple(Tick(self(value), show_amount(value)) for value in values)


def round_values(low: Number, high: Number, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that cover ``low..high``, about so many steps."""
    if not high > low:
        return [float(low), float(low + 1)]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def curve(points: Sequence[tuple[int, Number]], y_label: str, what: str) -> Plot | None:
    """A quantity against activations read, from zero; None without finite points."""
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return None
    if len(points) > MAX_POINTS:
        points = [points[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
    x_values = round_values(0, points[-1][0])
    y_values = round_values(0, max(value for _, value in points))
    # The x axis ends with the data, the y axis with a round value.
    x = Scale(0, points[-1][0], LEFT, WIDTH - RIGHT)
    y = Scale(0, y_values[-1], HEIGHT - BOTTOM, TOP)
    placed = [(x(tokens), y(value)) for tokens, value in points]
    markers = tuple(
        Marker(*place, f"{what} {show_number(value)} after {tokens:,} activations")
        for place, (tokens, value) in zip(placed, points, strict=True)
    )
    (tokens, first), (last_tokens, last) = points[0], points[-1]
    return Plot(
        x_label="activations read",
        y_label=y_label,
        summary=f"{what} {show_number(first)} after {tokens:,} activations, {show_number(last)} after {last_tokens:,}.",
        x_ticks=x.ticks([value for value in x_values if value <= points[-1][0]]),
        y_ticks=y.ticks(y_values),
        path="M" + "L".join(f"{across} {up}" for across, up in placed),
        markers=markers if len(markers) <= MAX_MARKERS else (),
    )


def l0_plot(counts: Sequence[int]) -> Plot:
    """How many tokens used 0, 1, ..., k distinct atoms."""
    total = sum(counts)
    mean = sum(l0 * count for l0, count in enumerate(counts)) / total
    titles = [f"L0 = {l0}: {count:,} tokens ({show_share(count / total)})" for l0, count in enumerate(counts)]
    k = len(counts) - 1
    return _histogram(
        Scale(-0.5, k + 0.5, LEFT, WIDTH - RIGHT),
        [value for value in round_values(0, k) if value <= k and value == int(value)],
        [l0 - 0.5 for l0 in range(k + 2)],
        counts,
        titles,
        x_label="L0: distinct atoms in a code",
        y_label="tokens",
        summary=f"L0 of {total:,} tokens, {show_number(mean)} on average, at most {k}.",
    )


def density_plot(densities: Sequence[float]) -> Plot | None:
    """The logarithm of how often each atom is used, four bins a decade; None where every atom is dead."""
    used = [density for density in densities if density > 0]
    if not used:
        return None
    logs = [math.log10(density) for density in used]
    low, high = math.floor(min(logs)), max(math.floor(min(logs)) + 1, math.ceil(max(logs)))
    edges = [low + index / 4 for index in range(4 * (high - low) + 1)]
    counts = [0] * (len(edges) - 1)
    for value in logs:
        counts[min(int((value - low) * 4), len(counts) - 1)] += 1
    titles = [
        f"{count:,} atoms used by {show_share(10**start)} to {show_share(10**end)} of tokens"
        for start, end, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return _histogram(
        Scale(low, high, LEFT, WIDTH - RIGHT),
        list(range(low, high + 1)),
        edges,
        counts,
        titles,
        x_label="log₁₀ of the share of tokens that use the atom",
        y_label="atoms",
        summary=f"{len(used):,} of {len(densities):,} atoms are used, by {show_share(min(used))} "
        f"to {show_share(max(used))} of tokens.",
    )


def _histogram(
    x: Scale,
    x_values: Sequence[Number],
    edges: Sequence[Number],
    counts: Sequence[int],
    titles: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    summary: str,
) -> Plot:
    y_values = [value for value in round_values(0, max(counts)) if value == int(value)]
    y = Scale(0, y_values[-1], HEIGHT - BOTTOM, TOP)
    gap = 1.5 if len(counts) <= 100 else 0.0
    bars = tuple(
        Bar(x(start), y(count), round(x(end) - x(start) - gap, 2), round(HEIGHT - BOTTOM - y(count), 2), title)
        for start, end, count, title in zip(edges, edges[1:], counts, titles, strict=False)
        if count
    )
    return Plot(x_label, y_label, summary, x.ticks(x_values), y.ticks(y_values), bars=bars)
