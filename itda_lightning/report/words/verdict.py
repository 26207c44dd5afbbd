"""Judge which entry of a comparison is best by each measure and where ITDAs stand, and say so in sentences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from humanize import ordinal

from itda_lightning.report.words.columns import measure_words, wall_seconds
from itda_lightning.report.words.wording import show_estimate, show_number, show_seconds
from itda_lightning.results.comparison import Estimate, Row

# Measure -> more of it is better.
JUDGED = {
    "fvu": False,
    "ce_loss_increase": False,
    "kl_div_with_sae": False,
    "probing/k=1": True,
    "probing/k=5": True,
    "probing/all": True,
}
# Entries are paired if the larger L0 is at most this multiple of the smaller.
COMPARABLE_L0 = 1.25
# This many names are listed, the others counted.
NAMED = 3


@dataclass(frozen=True)
class Tally:
    """Pairs of an ITDA and another entry of similar L0: how often the ITDA is better, as good and worse."""

    won: int = 0
    tied: int = 0
    lost: int = 0

    @property
    def pairs(self) -> int:
        return self.won + self.tied + self.lost

    def words(self) -> str:
        """Return the tally for readers."""
        return f"wins {self.won}, ties {self.tied}, loses {self.lost}" if self.pairs else "no pairs"


@dataclass(frozen=True)
class Verdict:
    """The ranking of the entries by one measure.

    ``ties`` are those within two standard errors of the best; ``rank`` of the best ITDA is one more than the number of
    the ``ranked`` entries that are better by more than two standard errors. Without an error for the best ITDA or the
    best of the others it is not ``decided`` which is better.
    """

    measure: str
    best: Row
    ties: tuple[Row, ...]
    itda: Row | None
    rank: int
    ranked: int
    against_saes: Tally
    against_controls: Tally
    decided: bool = True

    @property
    def outcome(self) -> str:
        """``wins``, ``ties`` or ``loses``: the best ITDA against the best of the others; "" if undecided or alone."""
        if self.itda is None or self.ranked == 1 or not self.decided:
            return ""
        if self.rank > 1:
            return "loses"
        return "ties" if any(row.kind != "itda" for row in (self.best, *self.ties)) else "wins"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on each judged measure that any entry has."""
    measured = {m: [row for row in rows if row.failure is None and math.isfinite(row.value(m))] for m in JUDGED}
    return [_verdict(entries, measure) for measure, entries in measured.items() if entries]


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Return ``one`` minus ``other``; its error is that of independent estimates, None if neither has one.

    That is an upper bound for entries measured on the same tokens, whose errors go together.
    """
    errors = [e.error for e in (one, other) if e.error is not None and math.isfinite(e.error)]
    return Estimate(one.value - other.value, math.hypot(*errors) if errors else None)


def headline(verdict: Verdict) -> str:
    """Say which entry is best by a measure, and where the best ITDA stands."""
    best, itda = verdict.best, verdict.itda
    words = f"{measure_words(verdict.measure)[0]}: {best.name}{', an ITDA,' if best is itda else ''} is best at "
    words += shown(best, verdict.measure)
    within = [f"the best ITDA, {row.name} at {shown(row, verdict.measure)}" for row in verdict.ties if row is itda]
    others = [row for row in verdict.ties if row is not itda]
    within += [listed(others)] if others else []
    words += f", within error of {', and of '.join(within)}" if within else ""
    if itda is None:
        return f"{words}. There is no ITDA."
    if itda is not best and itda not in verdict.ties:
        gap = difference(itda.measures[verdict.measure], best.measures[verdict.measure])
        words += (
            f". The best ITDA, {itda.name} at {shown(itda, verdict.measure)}, is {ordinal(verdict.rank)} of "
            f"{verdict.ranked}, worse by {show_estimate(abs(gap.value), gap.error)}"
        )
    if verdict.against_saes.pairs:
        lost, pairs = verdict.against_saes.lost, verdict.against_saes.pairs
        words += f". ITDAs lose {lost} of {pairs} comparisons with SAEs of similar L0"
    if not verdict.decided:
        words += ". There are no errors to judge the difference by"
    return f"{words}."


def cost_line(rows: Sequence[Row]) -> str:
    """Say what the fastest ITDA and the fastest SAE took; "" if neither is known."""
    parts = []
    for kind, name in (("itda", "ITDA"), ("sae", "SAE")):
        timed = [row for row in rows if row.kind == kind and row.failure is None and wall_seconds(row) > 0]
        if timed:
            fastest = min(timed, key=wall_seconds)
            seen = fastest.cost.activations_seen
            source = f" for {show_number(seen)} activations seen" if seen is not None else ""
            which = f"the fastest {name}" if len(timed) > 1 else f"the only timed {name}"
            parts.append(f"{which}, {fastest.name}, took {show_seconds(wall_seconds(fastest))}{source}")
    words = "; ".join(parts)
    return f"Cost, harvest included: {words}." if words else ""


def failures_line(rows: Sequence[Row]) -> str:
    """Say how many entries have results, and which have none."""
    failed = [row for row in rows if row.failure is not None]
    reused = sum(row.reused for row in rows)
    words = f"{len(rows) - len(failed)} of {len(rows)} entries have results"
    words += f", {reused} of them reused from an earlier run" if reused else ""
    return f"{words}. Failed: {listed(failed)}." if failed else f"{words}."


def shown(row: Row, measure: str) -> str:
    """Return an entry's value of a measure that it has, with its error."""
    return show_estimate(row.measures[measure].value, row.measures[measure].error)


def listed(rows: Sequence[Row]) -> str:
    """Return the names for a sentence: ``a, b, c and 2 more``."""
    names = [row.name for row in rows[:NAMED]]
    if len(rows) > NAMED:
        names.append(f"{len(rows) - NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verdict(rows: Sequence[Row], measure: str) -> Verdict:
    ranked = sorted(rows, key=lambda row: row.value(measure), reverse=JUDGED[measure])
    best, itdas = ranked[0], [row for row in ranked if row.kind == "itda"]
    others = [row for row in ranked if row.kind != "itda"]
    return Verdict(
        measure,
        best,
        tuple(row for row in ranked[1:] if _better(best, row, measure) == 0),
        itdas[0] if itdas else None,
        1 + sum(_better(row, itdas[0], measure) > 0 for row in rows) if itdas else 0,
        len(rows),
        _tally(itdas, [row for row in rows if row.kind == "sae"], measure),
        _tally(itdas, [row for row in rows if row.kind not in ("itda", "sae")], measure),
        not itdas or not others or _judged(itdas[0], others[0], measure),
    )


def _judged(one: Row, other: Row, measure: str) -> bool:
    """Return True if the difference of two entries has an error, so that one can be called better."""
    return difference(one.measures[measure], other.measures[measure]).error is not None


def _better(one: Row, other: Row, measure: str) -> int:
    """Return 1 if ``one`` is better than ``other``, -1 if it is worse, 0 for a tie: within two standard errors."""
    gap = difference(one.measures[measure], other.measures[measure])
    if abs(gap.value) <= 2 * (gap.error or 0.0):
        return 0
    return 1 if (gap.value > 0) == JUDGED[measure] else -1


def _tally(itdas: Sequence[Row], others: Sequence[Row], measure: str) -> Tally:
    """Compare every pair of similar L0 whose difference has an error."""
    outcomes = []
    for itda, other in product(itdas, others):
        low, high = sorted((itda.value("l0"), other.value("l0")))
        if low > 0 and high <= COMPARABLE_L0 * low and _judged(itda, other, measure):
            outcomes.append(_better(itda, other, measure))
    return Tally(outcomes.count(1), outcomes.count(0), outcomes.count(-1))
