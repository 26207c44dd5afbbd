"""Differences between entries of a comparison, with the errors that words rest on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from itda_lightning.report.words.columns import OF_THE_MODEL
from itda_lightning.report.words.wording import DASH, listed, show_estimate
from itda_lightning.results.comparison import Estimate, Row
from itda_lightning.results.paired import paired_difference

LOSSES = ("fvu", "ce_loss_increase", "kl_div_with_sae")
# After a difference whose error is not of the same documents or draws.
MARK = " *"


class Gap(NamedTuple):
    """The difference of two entries, ``paired`` if it is of the same documents or draws; ``error`` None if unknown.

    Otherwise the errors of both are taken as independent, which is nearly always too much for entries measured on the
    same tokens.
    """

    value: float
    error: float | None
    paired: bool

    def words(self) -> str:
        """Return the size of the difference for a sentence."""
        size = show_estimate(abs(self.value), self.error)
        return size if self.paired or self.error is None else f"{size}, errors taken as independent"

    def cell(self) -> str:
        """Return the difference for a table, with its sign."""
        sign = "+" if self.value > 0 else ""
        return f"{sign}{show_estimate(self.value, self.error)}{'' if self.paired else MARK}"


class Differences(NamedTuple):
    """A table of differences to one entry, or to the best by each measure; a dash stands for that entry itself."""

    reference: str
    measures: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]  # (name, cells) of each entry


def gap(one: Row, other: Row, measure: str) -> Gap:
    """Return ``one`` minus ``other`` by a measure that both have. Raises InputError as ``paired_difference``."""
    paired = paired_difference(one, other, measure)
    if paired is not None:
        return Gap(paired.value, _known(paired), True)
    first, second = one.measures[measure], other.measures[measure]
    errors = [error for error in map(_known, (first, second)) if error is not None]
    return Gap(first.value - second.value, math.hypot(*errors) if errors else None, False)


def ranked_by(rows: Sequence[Row], measure: str) -> list[Row]:
    """Return the entries that have a value of a measure, the best first."""
    having = [row for row in rows if row.failure is None and math.isfinite(row.value(measure))]
    return sorted(having, key=lambda row: row.value(measure), reverse=measure not in LOSSES)


def tables_of_differences(rows: Sequence[Row]) -> list[Differences]:
    """Return the differences in losses and probes of all entries to the best by each, and to the first ITDA."""
    known = dict.fromkeys(key for row in rows for key in row.measures if key.startswith("probing/"))
    keys = [key for key in (*LOSSES, *known) if key not in OF_THE_MODEL]
    ranked = {key: having for key in keys if len(having := ranked_by(rows, key)) > 1}
    tables = [_table("the best entry", rows, {key: having[0] for key, having in ranked.items()})]
    itda = next((row for row in rows if row.kind == "itda" and row.failure is None), None)
    if itda is not None:
        references = {key: itda for key, having in ranked.items() if itda in having}
        tables.append(_table(itda.name, rows, references))
    return [table for table in tables if table.measures]


def note(tables: Sequence[Differences]) -> str:
    """Say what the errors of differences are."""
    words = "Errors of differences are paired: of the same resampled documents, or the same draws of probes."
    unpaired = dict.fromkeys(
        name for table in tables for name, cells in table.lines if any(cell.endswith(MARK) for cell in cells)
    )
    if not unpaired:
        return words
    return (
        f"{words}{MARK} marks those that cannot be, since results of an earlier version lack what it takes "
        f"({listed(list(unpaired))}): there errors are taken as independent, and a tie may hide a small difference."
    )


def _table(reference: str, rows: Sequence[Row], references: dict[str, Row]) -> Differences:
    lines = [
        (row.name, tuple(_cell(row, other, key) for key, other in references.items()))
        for row in rows
        if row.failure is None
    ]
    return Differences(reference, tuple(references), tuple(lines))


def _cell(row: Row, reference: Row, measure: str) -> str:
    return DASH if row is reference or not math.isfinite(row.value(measure)) else gap(row, reference, measure).cell()


def _known(estimate: Estimate) -> float | None:
    return estimate.error if estimate.error is not None and math.isfinite(estimate.error) else None
