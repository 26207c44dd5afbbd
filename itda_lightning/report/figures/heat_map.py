"""The geometry and colours of heat maps of layer by layer similarity, in the units of an SVG view box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from itda_lightning.report.words.wording import MINUS, show_estimate, show_number
from itda_lightning.results.model_similarity import MeasuredSites, Site

# Cividis (Nuñez, Anderton, Renslow 2018): even steps of lightness, alike to eyes with and without colour deficiency.
CIVIDIS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
# Lightness, 0 to 1, above which a dark number is read more easily.
LIGHT = 0.42
LARGEST_CELL, SMALLEST_CELL, WIDTH = 40.0, 18.0, 420.0
FRAME = 460.0  # so that small maps are not drawn larger
LETTER = 6.2  # the width of a letter of a label
GAP = 6


@dataclass(frozen=True)
class Cell:
    """One pair of layers.

    Attributes:
        x, y: the upper left corner.
        fill: the colour.
        ink: "dark" or "light", the number's.
        text: the value, short.
        title: the pair and the value with its error.
        best: whether it is the largest of its row, which is the layer that the row's is matched with.
    """

    x: float
    y: float
    fill: str
    ink: str
    text: str
    title: str
    best: bool


@dataclass(frozen=True)
class HeatMap:
    """Layers of one model (rows) by layers of another, or of the same one (columns).

    Attributes:
        rows, columns: (place, label) of each.
    """

    summary: str
    row_model: str
    column_model: str
    cells: tuple[Cell, ...]
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    size: float
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Shades:
    """The colours of one measure: from its smallest to its largest value between different sites.

    Sites with themselves are 1 whatever the measure and would take the contrast from all else.
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> "Shades":
        """The range of a matrix off its diagonal."""
        others = [
            value for i, row in enumerate(values) for j, value in enumerate(row) if i != j and math.isfinite(value)
        ]
        return cls(min(others, default=0.0), max(others, default=1.0))

    def share(self, value: float) -> float:
        """Where a value lies in the range, from 0 to 1."""
        if not math.isfinite(value) or self.high <= self.low:
            return 0.0
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def steps(self) -> list[tuple[str, str]]:
        """(colour, value) of a scale beside the maps."""
        places = [index / (len(CIVIDIS) - 1) for index in range(len(CIVIDIS))]
        return [(colour(place), show_number(self.low + place * (self.high - self.low))) for place in places]


def colour(share: float) -> str:
    """The colour at a place in the scale, between two of ``CIVIDIS``."""
    place = share * (len(CIVIDIS) - 1)
    first = min(int(place), len(CIVIDIS) - 2)
    low, high = (_channels(CIVIDIS[index]) for index in (first, first + 1))
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def heat_map(measured: MeasuredSites, sites: Sequence[Site], rows: range, columns: range, shades: Shades) -> HeatMap:
    """The part of a measure's matrix that compares the sites of one model with those of another."""
    size = min(LARGEST_CELL, max(SMALLEST_CELL, WIDTH / max(len(rows), len(columns))))
    left = LETTER * max(len(sites[row].label) for row in rows) + 2 * GAP + 16
    top = LETTER * max(len(sites[column].label) for column in columns) * 0.5 + 2 * GAP + 16
    cells = [
        _cell(measured, sites, row, column, columns, left + size * across, top + size * down, shades)
        for down, row in enumerate(rows)
        for across, column in enumerate(columns)
    ]
    first, second = sites[rows.start].model, sites[columns.start].model
    return HeatMap(
        summary=f"Layers of {first} by layers of {second}, from {show_number(shades.low)} to {show_number(shades.high)}.",
        row_model=first,
        column_model=second,
        cells=tuple(cells),
        rows=tuple((top + size * (place + 0.5), sites[row].label) for place, row in enumerate(rows)),
        columns=tuple((left + size * (place + 0.5), sites[column].label) for place, column in enumerate(columns)),
        size=size,
        left=left,
        top=top,
        width=max(FRAME, left + size * len(columns) + GAP),
        height=top + size * len(rows) + GAP,
    )


def sites_of_models(sites: Sequence[Site]) -> list[range]:
    """Which of the sites are those of each model, in the order of the models."""
    names = [site.model for site in sites]
    return [range(names.index(name), names.index(name) + names.count(name)) for name in dict.fromkeys(names)]


def _cell(
    measured: MeasuredSites,
    sites: Sequence[Site],
    row: int,
    column: int,
    columns: range,
    x: float,
    y: float,
    shades: Shades,
) -> Cell:
    value, fill = measured.values[row][column], colour(shades.share(measured.values[row][column]))
    # A site is not matched with itself.
    others = [measured.values[row][other] for other in columns if other != row]
    first, second = (f"{sites[site].model} {sites[site].hook_name}" for site in (row, column))
    return Cell(
        x=round(x, 2),
        y=round(y, 2),
        fill=fill,
        ink="dark" if _lightness(fill) > LIGHT else "light",
        text=f"{value:.2f}".replace("0.", ".", 1).replace("-", MINUS) if value < 0.995 else f"{value:.1f}",
        title=f"{first} and {second}: {show_estimate(value, None if row == column else measured.errors[row][column])}",
        best=row != column and value == max(others),
    )


def _channels(hexadecimal: str) -> tuple[int, ...]:
    return tuple(int(hexadecimal[start : start + 2], 16) for start in (1, 3, 5))


def _lightness(hexadecimal: str) -> float:
    """Relative, of the three channels as they are weighted on screens."""
    red, green, blue = _channels(hexadecimal)
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255
