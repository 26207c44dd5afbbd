"""Place values along linear or logarithmic axes with round ticks, in the units of an SVG view box."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from itda_lightning.report.words.wording import show_amount
from itda_lightning.results.comparison import Estimate

Number = float | int

MOST_TICKS = 7


class Tick(NamedTuple):
    """A labelled place on an axis."""

    at: Number
    label: str


@dataclass(frozen=True)
class Axis:
    """A map from ``low..high`` (logarithms to base 10 on a logarithmic axis) to ``start..end`` in view-box units."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False
    ticks: tuple[Tick, ...] = ()

    def place(self, value: Number) -> float:
        """Return the place of a value."""
        value = math.log10(value) if self.log else value
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return round(self.start + share * (self.end - self.start), 2)

    def with_ticks(self, values: Iterable[Number]) -> "Axis":
        """Return the axis with a tick at each value."""
        return replace(self, ticks=tuple(Tick(self.place(value), show_amount(value)) for value in values))


def fitted_axis(values: Sequence[Number], start: Number, end: Number, *, log: bool) -> Axis:
    """Return an axis with some room around finite values, which are positive if the axis is logarithmic."""
    least = 0.02 if log else 1e-6 * max(map(abs, values)) or 0.5
    values = [math.log10(value) for value in values] if log else values
    room = max(0.06 * (max(values) - min(values)), least)
    low, high = min(values) - room, max(values) + room
    ticks = log_values(10**low, 10**high) if log else round_values_within(low, high)
    return Axis(low, high, start, end, log).with_ticks(ticks)


def error_ends(estimate: Estimate, *, log: bool = False) -> tuple[Number, Number]:
    """Return the ends of an error bar; one that would reach zero on a logarithmic axis ends at a tenth of the value."""
    value, error = estimate.value, estimate.error
    if error is None or not math.isfinite(error):
        return value, value
    return max(value - error, value / 10) if log else value - error, value + error


def round_values(low: Number, high: Number, about: int = 5) -> list[Number]:
    """Return multiples of 1, 2 or 5 times a power of ten that cover ``low..high`` in about this many steps."""
    if not high > low:
        return [float(low), float(low + 1)]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def round_values_within(low: Number, high: Number) -> list[Number]:
    """Return those of ``round_values`` that are not outside ``low..high``."""
    return [value for value in round_values(low, high) if low <= value <= high]


def log_values(low: Number, high: Number) -> list[Number]:
    """Return round values between ``low`` and ``high`` for a logarithmic axis: at most about seven."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**power for power in decades for factor in factors]
        inside = [float(f"{value:.12g}") for value in values if low <= value <= high]
        if 3 <= len(inside) <= MOST_TICKS:
            return inside
        if len(inside) < 3:
            # Less than a decade: steps as on a linear axis.
            return round_values_within(low, high)
    return inside[:: math.ceil(len(inside) / MOST_TICKS)]
