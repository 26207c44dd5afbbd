"""Lay out similarities of layers as tables of coloured numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from itda_lightning.report.words.wording import MINUS, show_estimate, show_number
from itda_lightning.results.model_similarity import MeasuredSites, Site

# Colours of cells: classes shade-0 to shade-9 of similarity.css, from dark (small values) to light.
SHADES = 10


class Cell(NamedTuple):
    """One pair of layers; the value of the best pair of a row is the largest, so its layers are matched."""

    shade: int
    text: str
    title: str
    best: bool


class HeatMap(NamedTuple):
    """Layers of one model (rows) by layers of another, or of the same one (columns): ``cells[row][column]``."""

    rows: Sequence[Site]
    columns: Sequence[Site]
    cells: Sequence[Sequence[Cell]]


class Shades(NamedTuple):
    """The colours of one measure: from its smallest to its largest value between different sites.

    Sites with themselves, which are 1 by any measure, would take the contrast from all others.
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> "Shades":
        """Return the range of a matrix off its diagonal."""
        others = [
            value for i, row in enumerate(values) for j, value in enumerate(row) if i != j and math.isfinite(value)
        ]
        return cls(min(others, default=0.0), max(others, default=1.0))

    def shade(self, value: float) -> int:
        """Return the shade of a value: equal steps of the range, values outside it like its ends."""
        if not math.isfinite(value) or self.high <= self.low:
            return 0
        share = (value - self.low) / (self.high - self.low)
        return min(SHADES - 1, max(0, int(share * SHADES)))

    def steps(self) -> list[str]:
        """Return for each shade the smallest value that has it."""
        return [show_number(self.low + shade / SHADES * (self.high - self.low)) for shade in range(SHADES)]


def heat_map(measured: MeasuredSites, sites: Sequence[Site], rows: range, columns: range, shades: Shades) -> HeatMap:
    """Lay out the part of a measure's matrix that compares the sites of one model with those of another."""

    def cell(row: int, column: int) -> Cell:
        value, error = measured.values[row][column], None if row == column else measured.errors[row][column]
        # A site is not matched with itself.
        others = [measured.values[row][other] for other in columns if other != row]
        chance = ""
        if row != column and measured.nulls and math.isfinite(measured.nulls[row][column]):
            numbers = (show_number(matrix[row][column]) for matrix in (measured.nulls, measured.excesses))
            chance = "; tokens permuted {}, excess {}".format(*numbers)
        first, second = (f"{sites[site].model} {sites[site].hook_name}" for site in (row, column))
        return Cell(
            shade=shades.shade(value),
            text=f"{value:.2f}".replace("0.", ".", 1).replace("-", MINUS) if value < 0.995 else f"{value:.1f}",
            title=f"{first} and {second}: {show_estimate(value, error)}{chance}",
            best=row != column and value == max(others),
        )

    cells = [[cell(row, column) for column in columns] for row in rows]
    return HeatMap([sites[row] for row in rows], [sites[column] for column in columns], cells)


def sites_of_models(sites: Sequence[Site]) -> list[range]:
    """Return the range of sites of each model, in the order of the models."""
    names = [site.model for site in sites]
    return [range(names.index(name), names.index(name) + names.count(name)) for name in dict.fromkeys(names)]
