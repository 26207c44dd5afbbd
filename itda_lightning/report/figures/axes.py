"""Axes of plots that compare entries: linear or logarithmic, fitted to the values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from itda_lightning.report.figures.plots import Number, Scale, Tick, round_values
from itda_lightning.report.words.wording import show_amount

MOST_TICKS = 7


@dataclass(frozen=True)
class Axis:
    """A map from values to view-box units, with its ticks."""

    place: Callable[[float], float]
    ticks: tuple[Tick, ...]


def fitted_axis(values: Sequence[float], start: Number, end: Number, *, log: bool) -> Axis:
    """An axis from ``start`` to ``end`` with some room around the finite values; of a logarithmic one all positive."""
    if log:
        low, high = _padded([math.log10(value) for value in values], least=0.02)
        scale = Scale(low, high, start, end)
        return Axis(
            lambda value: scale(math.log10(value)),
            tuple(Tick(scale(math.log10(value)), show_amount(value)) for value in log_values(10**low, 10**high)),
        )
    low, high = _padded(values, least=1e-6 * max(map(abs, values)) or 0.5)
    scale = Scale(low, high, start, end)
    return Axis(scale, scale.ticks([value for value in round_values(low, high) if low <= value <= high]))


def log_values(low: float, high: float) -> list[float]:
    """Round values between ``low`` and ``high`` for a logarithmic axis: at most about seven."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**power for power in decades for factor in factors]
        inside = [float(f"{value:.12g}") for value in values if low <= value <= high]
        if 3 <= len(inside) <= MOST_TICKS:
            return inside
        if len(inside) < 3:
            # Less than a decade: steps as on a linear axis.
            return [value for value in round_values(low, high) if low <= value <= high]
    return inside[:: math.ceil(len(inside) / MOST_TICKS)]


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), least)
    return low - room, high + room
