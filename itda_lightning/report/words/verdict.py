"""Judge which entry of a comparison is best by each measure and where ITDAs stand, and say so in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from humanize import ordinal

from itda_lightning.report.words.columns import measure_words, wall_seconds
from itda_lightning.report.words.differences import LOSSES, Gap, gap, ranked_by
from itda_lightning.report.words.wording import listed, show_estimate, show_number, show_seconds
from itda_lightning.results.comparison import Row

JUDGED = (*LOSSES, "probing/k=1", "probing/k=5", "probing/all")
# Entries are paired if the larger L0 is at most this multiple of the smaller.
COMPARABLE_L0 = 1.25


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

    ``ties`` are those within two standard errors of the best, ``ahead`` of the best ITDA those of the ``ranked``
    entries that are better by more than two, in each case errors of the difference. Without an error of that between
    the best ITDA and the best of the others it is not ``decided`` which is better.
    """

    measure: str
    best: Row
    ties: tuple[Row, ...]
    itda: Row | None
    ahead: tuple[Row, ...]
    ranked: int
    against_saes: Tally
    against_controls: Tally
    decided: bool = True

    @property
    def rank(self) -> int:
        """The rank of the best ITDA, 0 without one."""
        return 0 if self.itda is None else 1 + len(self.ahead)

    @property
    def outcome(self) -> str:
        """``wins``, ``ties`` or ``loses``: the best ITDA against the best of the others; "" if undecided or alone."""
        if self.itda is None or self.ranked == 1 or not self.decided:
            return ""
        if self.ahead:
            return "loses"
        return "ties" if any(row.kind != "itda" for row in (self.best, *self.ties)) else "wins"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on each judged measure that any entry has."""
    return [_verdict(ranked, measure) for measure in JUDGED if (ranked := ranked_by(rows, measure))]


def headline(verdict: Verdict) -> str:
    """Say which entry is best by a measure, and where the best ITDA stands."""
    best, itda, measure = verdict.best, verdict.itda, verdict.measure
    if verdict.ranked == 1:
        return f"{measure_words(measure)[0]}: {best.name} alone was measured, {shown(best, measure)}."
    words = f"{measure_words(measure)[0]}: {best.name}{', an ITDA,' if best is itda else ''} is best at "
    words += shown(best, measure)
    ties = [row for row in verdict.ties if row is not itda]
    within = [listed([row.name for row in ties])] if ties else []
    if itda in verdict.ties:
        worse = f"worse by {gap(itda, best, measure).words()}"
        within.insert(0, f"the best ITDA, {itda.name} at {shown(itda, measure)} ({worse})")
    words += f", within error of {', and of '.join(within)}" if within else ""
    if itda is None:
        return f"{words}. There is no ITDA."
    if itda is not best and itda not in verdict.ties:
        words += f". The best ITDA, {itda.name} at {shown(itda, measure)}, is {ordinal(verdict.rank)} of "
        words += f"{verdict.ranked}, worse by {gap(itda, best, measure).words()}"
    elif verdict.ahead:  # a difference to another entry than the best can be known better
        other = verdict.ahead[0]
        words += f". It is beyond error worse than {other.name}, by {gap(itda, other, measure).words()}"
    if verdict.against_saes.pairs:
        words += f". {_against_saes(verdict.against_saes)}"
    if not verdict.decided:
        words += ". There are no errors to judge the difference by"
    return f"{words}."


def _against_saes(tally: Tally) -> str:
    if tally.pairs > 1:
        return f"ITDAs lose {tally.lost} of {tally.pairs} comparisons with SAEs of similar L0"
    outcome = "wins" if tally.won else "ties" if tally.tied else "loses"
    return f"The ITDA {outcome} the only comparison with an SAE of similar L0"


def cost_line(rows: Sequence[Row]) -> str:
    """Say what the fastest ITDA and the fastest SAE took; "" if neither is known."""
    parts = []
    for kind, name in (("itda", "ITDA"), ("sae", "SAE")):
        of_kind = [row for row in rows if row.kind == kind and row.failure is None]
        timed = [row for row in of_kind if wall_seconds(row) > 0]
        if timed:
            fastest = min(timed, key=wall_seconds)
            seen = fastest.cost.activations_seen
            source = f" for {show_number(seen)} activations seen" if seen is not None else ""
            who = fastest.name
            if len(of_kind) > 1:
                who = f"the fastest {name}, {who}," if len(timed) > 1 else f"{who}, the only timed {name},"
            parts.append(f"{who} took {show_seconds(wall_seconds(fastest))}{source}")
    words = "; ".join(parts)
    return f"Cost, harvest included: {words}." if words else ""


def failures_line(rows: Sequence[Row]) -> str:
    """Say how many entries have results, and which have none."""
    failed = [row for row in rows if row.failure is not None]
    reused = sum(row.reused for row in rows)
    left = len(rows) - len(failed)
    words = f"{left} of {len(rows)} entries {'has' if left == 1 else 'have'} results"
    if left and not failed:
        words = "The entry has results" if left == 1 else f"All {left} entries have results"
    words += f", {'' if left == 1 else f'{reused} of them '}reused from an earlier run" if reused else ""
    return f"{words}. Failed: {listed([row.name for row in failed])}." if failed else f"{words}."


def shown(row: Row, measure: str) -> str:
    """Return an entry's value of a measure that it has, with its error."""
    return show_estimate(row.measures[measure].value, row.measures[measure].error)


def _verdict(ranked: Sequence[Row], measure: str) -> Verdict:
    best, itdas = ranked[0], [row for row in ranked if row.kind == "itda"]
    others = [row for row in ranked if row.kind != "itda"]
    return Verdict(
        measure,
        best,
        tuple(row for row in ranked[1:] if _better(best, row, measure) == 0),
        itdas[0] if itdas else None,
        tuple(row for row in ranked if itdas and row is not itdas[0] and _better(row, itdas[0], measure) > 0),
        len(ranked),
        _tally(itdas, [row for row in ranked if row.kind == "sae"], measure),
        _tally(itdas, [row for row in ranked if row.kind not in ("itda", "sae")], measure),
        not itdas or not others or gap(itdas[0], others[0], measure).error is not None,
    )


def _better(one: Row, other: Row, measure: str) -> int:
    """Return 1 if ``one`` is better than ``other``, -1 if it is worse, 0 for a tie: within two standard errors."""
    return _outcome(gap(one, other, measure), measure)


def _outcome(of: Gap, measure: str) -> int:
    if abs(of.value) <= 2 * (of.error or 0.0):
        return 0
    return 1 if (of.value < 0) == (measure in LOSSES) else -1


def _tally(itdas: Sequence[Row], others: Sequence[Row], measure: str) -> Tally:
    """Compare every pair of similar L0 whose difference has an error."""
    outcomes = []
    for itda, other in product(itdas, others):
        low, high = sorted((itda.value("l0"), other.value("l0")))
        if low > 0 and high <= COMPARABLE_L0 * low and (of := gap(itda, other, measure)).error is not None:
            outcomes.append(_outcome(of, measure))
    return Tally(outcomes.count(1), outcomes.count(0), outcomes.count(-1))
