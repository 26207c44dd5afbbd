"""Verdicts as sentences."""

from collections.abc import Sequence

from itda_lightning.report.words.columns import measure_words, wall_seconds
from itda_lightning.report.words.verdict import Verdict, difference
from itda_lightning.report.words.wording import show_estimate, show_number, show_seconds
from itda_lightning.results.comparison import Row

# So many names are listed, the others counted.
NAMED = 3


def headline(verdict: Verdict) -> str:
    """Which entry does best by a measure, and where the best ITDA stands."""
    name, _ = measure_words(verdict.measure)
    best, itda = verdict.best, verdict.itda
    what = f"{best.name}, an ITDA," if best is itda else best.name
    words = f"{name}: {what} does best with {shown(best, verdict.measure)}"
    if verdict.ties:
        words += f", in a tie with {listed(verdict.ties)}"
    if itda is None:
        return f"{words}. There is no ITDA."
    if itda in verdict.ties:
        words += f". The best ITDA, {itda.name} with {shown(itda, verdict.measure)}, is one of these"
    elif itda is not best:
        gap = difference(itda.measures[verdict.measure], best.measures[verdict.measure])
        words += (
            f". The best ITDA, {itda.name} with {shown(itda, verdict.measure)}, loses: it is {ordinal(verdict.rank)} of "
            f"{verdict.ranked}, {show_estimate(abs(gap.value), gap.error)} {'above' if gap.value > 0 else 'below'}"
        )
    if verdict.against_saes.pairs:
        lost, pairs = verdict.against_saes.lost, verdict.against_saes.pairs
        words += f". ITDAs lose {lost} of {pairs} pairs with SAEs of comparable L0"
    return f"{words}."


def cost_line(rows: Sequence[Row]) -> str:
    """What the quickest ITDA and the quickest SAE took, "" where neither is known."""
    parts = []
    for kind, name in (("itda", "ITDA"), ("sae", "SAE")):
        known = [row for row in rows if row.kind == kind and row.failure is None and wall_seconds(row) > 0]
        if known:
            quickest = min(known, key=wall_seconds)
            seen = quickest.cost.activations_seen
            of = f" from {show_number(seen)} activations seen" if seen is not None else ""
            parts.append(f"the quickest {name}, {quickest.name}, took {show_seconds(wall_seconds(quickest))}{of}")
    words = "; ".join(parts)
    return f"Cost, the harvest included: {words}." if words else ""


def failures_line(rows: Sequence[Row]) -> str:
    """How many entries have figures, and which have none."""
    failed = [row for row in rows if row.failure is not None]
    reused = sum(row.reused for row in rows)
    words = f"{len(rows) - len(failed)} of {len(rows)} entries have figures"
    if reused:
        words += f", {reused} of them taken over from an earlier run"
    return f"{words}. Failed: {listed(failed)}." if failed else f"{words}."


def shown(row: Row, measure: str) -> str:
    """An entry's value of a measure that it has."""
    estimate = row.measures[measure]
    return show_estimate(estimate.value, estimate.error)


def listed(rows: Sequence[Row]) -> str:
    """Names for a sentence."""
    names = [row.name for row in rows[:NAMED]]
    if len(rows) > NAMED:
        names.append(f"{len(rows) - NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{ending}"
