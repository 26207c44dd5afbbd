"""Read the committed results of the studies as records: numbers that were measured together.

A record is an object of a results JSON, or all rows of one name in a results table; ``Results`` finds figures in them.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.house.figures import UNITS, Figure, figures

NAMES = ("name", "row", "cell", "entry", "dictionary", "strength", "case", "score", "ranked by", "kind", "steps")


@dataclass
class Record:
    """Numbers measured together.

    Attributes:
        place: study, file, and the names on the way to it.
        values: stored numbers.
        written: figures of a results table, of which no more digits are known.
    """

    place: str
    values: list[float] = field(default_factory=list)
    written: list[Figure] = field(default_factory=list)

    def rounded(self, decimals: int, scale: float) -> set[int]:
        """Return all values times ``scale``, rounded to a number of digits: unsigned, ties both ways."""
        values = [abs(value) * scale for value in self.values]
        for other in self.written:
            if other.unit and scale == 1 / UNITS[other.unit]:
                values.append(other.value)
            elif other.decimals + 2 * other.percent >= decimals + round(math.log10(max(scale, 1))):
                values.append(other.stored * scale)
        # Nineteen digits before the point are none of our figures.
        scaled = [value * 10.0**decimals for value in values if value < 1e18]
        return {math.floor(value + half) for value in scaled for half in (0.4999999, 0.5000001)}


class Results:
    """Records, in which figures are looked up."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self._index: dict[tuple[int, float], dict[int, set[int]]] = {}

    def holders(self, figure: Figure, steps: int = 0) -> set[int]:
        """Return which records have the figure, or its neighbour by so many of its last digit."""
        last_digits = round(figure.value * 10**figure.decimals) + steps
        found: set[int] = set()
        for scale in figure.scales():
            key = figure.decimals, scale
            if key not in self._index:
                index: dict[int, set[int]] = defaultdict(set)
                for number, record in enumerate(self.records):
                    for value in record.rounded(*key):
                        index[value].add(number)
                self._index[key] = index
            found |= self._index[key].get(last_digits, set())
        return found

    def luck(self, figure: Figure) -> float:
        """Return the share of the figure's twenty neighbours that are in the results, too."""
        return sum(bool(self.holders(figure, steps)) for steps in range(-10, 11) if steps) / 20


def json_records(content: Any, place: str) -> Iterator[Record]:
    """Yield a record per object of a JSON file; a collection of records is none itself."""
    if isinstance(content, list):
        for inner in content:
            yield from json_records(inner, place)
    elif isinstance(content, dict):
        name = next((content[key] for key in NAMES if isinstance(content.get(key), str | int)), "")
        here = f"{place} {name}".strip()
        if not _is_collection(content):
            parts = [value for value in content.values() if not _holds_records(value)]
            values = [number for part in parts for number in _numbers(part)]
            if values:
                yield Record(here, values)
        for key, value in content.items():
            if isinstance(value, dict | list):
                yield from json_records(value, f"{here} {key}" if isinstance(value, dict) else here)


def _is_collection(content: dict[str, Any]) -> bool:
    """Return True for several objects with the same keys: seeds, layers, entries."""
    inner = [set(value) for value in content.values() if isinstance(value, dict)]
    return len(inner) > 1 and len(set.intersection(*inner)) > 3


def _holds_records(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], dict)
    return isinstance(value, dict) and (_is_collection(value) or any(map(_holds_records, value.values())))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        if math.isfinite(value):
            yield float(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)


def table_records(text: str, place: str) -> list[Record]:
    """Return a record per name, the first cell, of the rows of a results table; the text beside tables is one more."""
    records: dict[str, Record] = {}
    for line in text.splitlines():
        name = line.split("|")[1].strip() if line.startswith("|") else "text"
        record = records.setdefault(name, Record(f"{place} {name}"))
        record.written += figures(line)
    return list(records.values())


@cache
def results_of(root: Path, *studies: str) -> Results:
    """Return the records of the results of some studies."""
    records: list[Record] = []
    for study in studies:
        for path in sorted((root / "benchmarks" / study / "results").glob("*")):
            place = f"{study}/{path.name}"
            if path.suffix == ".json":
                records += json_records(json.loads(path.read_text(encoding="utf-8")), place)
            elif path.suffix == ".md":
                records += table_records(path.read_text(encoding="utf-8"), place)
    return Results(records)
