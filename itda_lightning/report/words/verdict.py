"""Which entry does best at what, and where ITDAs stand, in words that the figures bear out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from itda_lightning.results.comparison import Estimate, Row

# Measures that a verdict is given on, and whether more of it is better.
JUDGED = {
    "fvu": False,
    "ce_loss_increase": False,
    "kl_div_with_sae": False,
    "probing/k=1": True,
    "probing/k=5": True,
    "probing/all": True,
}
# Entries compare at comparable sparsity: the larger L0 is at most so many times the smaller.
COMPARABLE_L0 = 1.25
# Differences within so many of their standard errors are ties.
ERRORS = 2.0


@dataclass(frozen=True)
class Tally:
    """Pairs of an ITDA and another entry of comparable L0: in how many the ITDA is better, as good, worse."""

    won: int = 0
    tied: int = 0
    lost: int = 0

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return self.won + self.tied + self.lost

    def words(self) -> str:
        """The tally for readers."""
        if not self.pairs:
            return "no pairs"
        return f"wins {self.won}, ties {self.tied}, loses {self.lost}"


@dataclass(frozen=True)
class Verdict:
    """How entries do by one measure.

    Attributes:
        measure: its key.
        best: the entry with the best value.
        ties: the others that are within two standard errors of it.
        itda: the ITDA with the best value, None where there is none.
        rank: of that ITDA: one more than the number of entries that are better by more than two standard errors.
        ranked: how many entries have the measure.
        against_saes, against_controls: ITDAs against others of comparable L0.
    """

    measure: str
    best: Row
    ties: tuple[Row, ...]
    itda: Row | None
    rank: int
    ranked: int
    against_saes: Tally
    against_controls: Tally

    @property
    def outcome(self) -> str:
        """``wins``, ``ties`` or ``loses``: the best ITDA against the best of the others; "" where one side is missing."""
        if self.itda is None or self.ranked == 1:
            return ""
        if self.rank > 1:
            return "loses"
        others = [row for row in (self.best, *self.ties) if row.kind != "itda"]
        return "ties" if others else "wins"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """A verdict on each measure that any entry has."""
    found = []
    for measure, more_is_better in JUDGED.items():
        measured = [row for row in rows if row.failure is None and math.isfinite(row.value(measure))]
        if not measured:
            continue
        ordered = sorted(measured, key=lambda row: row.value(measure) * (-1 if more_is_better else 1))
        best = ordered[0]
        itdas = [row for row in ordered if row.kind == "itda"]
        rank = 0
        if itdas:
            rank = 1 + sum(_better(row, itdas[0], measure, more_is_better) > 0 for row in measured)
        found.append(
            Verdict(
                measure,
                best,
                tuple(row for row in ordered[1:] if _better(best, row, measure, more_is_better) == 0),
                itdas[0] if itdas else None,
                rank,
                len(measured),
                _tally(itdas, [row for row in measured if row.kind == "sae"], measure, more_is_better),
                _tally(itdas, [row for row in measured if row.kind in ("random", "pca")], measure, more_is_better),
            )
        )
    return found


def difference(one: Estimate, other: Estimate) -> Estimate:
    """``one`` minus ``other``, its error that of independent estimates: an upper bound for entries measured on the same
    tokens, whose errors go together; None where neither has one.
    """
    errors = [e.error for e in (one, other) if e.error is not None and math.isfinite(e.error)]
    return Estimate(one.value - other.value, math.hypot(*errors) if errors else None)


def _better(one: Row, other: Row, measure: str, more_is_better: bool) -> int:
    """1 where ``one`` is better than ``other``, -1 where it is worse, 0 for a tie."""
    gap = difference(one.measures[measure], other.measures[measure])
    if abs(gap.value) <= ERRORS * (gap.error or 0.0):
        return 0
    return 1 if (gap.value > 0) == more_is_better else -1


def _tally(itdas: Sequence[Row], others: Sequence[Row], measure: str, more_is_better: bool) -> Tally:
    results = [
        _better(itda, other, measure, more_is_better)
        for itda in itdas
        for other in others
        if _comparable(itda.value("l0"), other.value("l0"))
    ]
    return Tally(results.count(1), results.count(0), results.count(-1))


def _comparable(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return low > 0 and high <= COMPARABLE_L0 * low
