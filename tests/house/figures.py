"""Find the figures of a text."""

import re
from dataclasses import dataclass

TIMES = {"s": 1.0, "seconds": 1.0, "min": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0, "ms": 1e-3, "µs": 1e-6}
BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
UNITS = {**TIMES, **BYTES}
# Code, links, versions, and numbers of papers and equations.
NO_FIGURES = re.compile(
    r"`[^`]*`|\]\([^)]*\)|https?://\S+|arXiv:? ?\d+\.\d+|(?:Python|Eq\.|Appendix|[Ll]lama-?) ?[\w.]*\d\b"
)
FIGURE = re.compile(
    r"(?<![\w.,/^])(?<!\d-)[-+]?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)"
    rf"(?:(%)|\s(?:({'|'.join(sorted(UNITS, key=len, reverse=True))})\b))?(?![\w/]|\.\d|,\d| T\b)"
)


@dataclass(frozen=True)
class Figure:
    """A number as written.

    Attributes:
        text: as written, without sign, percent sign and unit.
        percent: it has a percent sign.
        unit: "s", "GB" ..., or "".
    """

    text: str
    percent: bool = False
    unit: str = ""

    def __str__(self) -> str:
        return self.text + "%" * self.percent + f" {self.unit}" * bool(self.unit)

    @property
    def value(self) -> float:
        return float(self.text.replace(",", ""))

    @property
    def stored(self) -> float:
        """The value in the units of results: shares, seconds, bytes."""
        return self.value / 100 if self.percent else self.value * UNITS.get(self.unit, 1.0)

    @property
    def decimals(self) -> int:
        return len(self.text.partition(".")[2])

    @property
    def plain(self) -> bool:
        """It is a whole number alone, in prose a count of things."""
        return self.text.isdigit() and not self.percent and not self.unit

    def scales(self) -> tuple[float, ...]:
        """Return by what a stored value may be multiplied to be this figure."""
        return (100.0,) if self.percent else (1.0, 1 / UNITS[self.unit]) if UNITS.get(self.unit, 1) != 1 else (1.0,)


def cell_figures(row: str) -> list[Figure]:
    """Return the figures of a table's row but for its first cell; whole numbers beside words are none."""
    cells = row.strip().strip("|").split("|")[1:]
    return [one for cell in cells for one in figures(cell) if not (one.plain and re.search(r"[a-z]{2}", cell))]


def figures(text: str) -> list[Figure]:
    """Return the figures of a text, in order; tens of T, the tokens of a study, are none."""
    return [Figure(match[1], bool(match[2]), match[3] or "") for match in FIGURE.finditer(NO_FIGURES.sub(" ", text))]
