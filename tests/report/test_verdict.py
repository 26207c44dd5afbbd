"""Who wins at what, and when nobody does."""

import dataclasses
import math

from itda_lightning.report.words.differences import Gap, gap, note, tables_of_differences
from itda_lightning.report.words.verdict import Tally, cost_line, failures_line, headline, verdicts
from itda_lightning.report.words.wording import DASH, MINUS, listed
from itda_lightning.results.comparison import ByDocument, Cost, Estimate, Kind, Row
from tests.report.comparisons import realistic_rows


def entry(name: str, kind: Kind, fvu: float, error: float | None = 0.01, l0: float = 32.0) -> Row:
    return Row(name, kind, "topk", 64, measures={"l0": Estimate(l0), "fvu": Estimate(fvu, error)})


def fvu_verdict(*rows: Row):
    (verdict,) = verdicts(rows)
    return verdict


def test_the_best_itda_is_ranked_by_what_is_better_beyond_two_errors():
    verdict = fvu_verdict(
        entry("a", "itda", 0.30), entry("b", "sae", 0.20), entry("c", "sae", 0.28), entry("d", "pca", 0.9)
    )
    assert (verdict.best.name, verdict.itda.name, verdict.rank, verdict.ranked) == ("b", "a", 2, 4)
    assert verdict.outcome == "loses"
    assert verdict.against_saes == Tally(0, 1, 1)
    assert verdict.against_controls == Tally(1, 0, 0)
    assert headline(verdict) == (
        "FVU: b is best at 0.200 ± 0.010. The best ITDA, a at 0.300 ± 0.010, is 2nd of 4, worse by "
        "0.100 ± 0.014, errors taken as independent. ITDAs lose 1 of 2 comparisons with SAEs of similar L0."
    )


def test_differences_within_two_errors_are_ties():
    verdict = fvu_verdict(entry("a", "itda", 0.21), entry("b", "sae", 0.20))
    assert (verdict.outcome, verdict.rank) == ("ties", 1)
    assert headline(verdict) == (
        "FVU: b is best at 0.200 ± 0.010, within error of the best ITDA, a at 0.210 ± 0.010 (worse by "
        "0.010 ± 0.014, errors taken as independent). "
        "The ITDA ties the only comparison with an SAE of similar L0."
    )


def test_without_an_error_nothing_is_decided():
    """A probe with one seed has none."""
    for value in (0.21, 0.19):
        exact = fvu_verdict(entry("a", "itda", value, None), entry("b", "sae", 0.20, None), entry("c", "pca", 0.9))
        assert (exact.decided, exact.outcome, exact.against_saes, exact.against_controls) == (
            False,
            "",
            Tally(),
            Tally(1, 0, 0),
        )
        assert headline(exact).endswith("There are no errors to judge the difference by.")
        assert "lose" not in headline(exact)
    one_sided = fvu_verdict(entry("a", "itda", 0.3, 0.01), entry("b", "sae", 0.20, None))
    assert (one_sided.decided, one_sided.outcome) == (True, "loses")


def test_an_itda_that_is_best_beyond_doubt_wins():
    verdict = fvu_verdict(entry("a", "itda", 0.1), entry("b", "sae", 0.20))
    assert verdict.outcome == "wins"
    assert headline(verdict).startswith("FVU: a, an ITDA, is best at 0.100 ± 0.010.")


def test_an_entry_alone_is_not_called_the_best():
    verdict = fvu_verdict(entry("a", "itda", 0.1))
    assert headline(verdict) == "FVU: a alone was measured, 0.100 ± 0.010."


def test_more_accuracy_is_better():
    rows = [
        dataclasses.replace(entry(name, kind, 0.1), measures={"probing/k=1": Estimate(value, 0.001)})
        for name, kind, value in (("a", "itda", 0.7), ("b", "sae", 0.8))
    ]
    assert fvu_verdict(*rows).best.name == "b"
    assert "The best ITDA, a at 0.7000 ± 0.0010, is 2nd of 2, worse by 0.1000 ± 0.0014" in headline(fvu_verdict(*rows))


def test_only_comparable_sparsity_is_paired():
    verdict = fvu_verdict(
        entry("a", "itda", 0.3, l0=32.0), entry("b", "sae", 0.2, l0=41.0), entry("c", "sae", 0.2, l0=40.0)
    )
    assert verdict.against_saes.pairs == 1
    assert fvu_verdict(entry("a", "itda", 0.3, l0=math.nan), entry("b", "sae", 0.2)).against_saes.pairs == 0
    assert Tally().words() == "no pairs"


def test_without_an_itda_or_without_others_nobody_is_judged():
    alone = fvu_verdict(entry("a", "itda", 0.3))
    assert alone.outcome == ""
    none = fvu_verdict(entry("a", "sae", 0.3), entry("b", "sae", 0.4))
    assert (none.itda, none.outcome) == (None, "")
    assert headline(none).endswith("There is no ITDA.")
    assert verdicts([Row("a", "sae", failure="gone"), entry("b", "itda", math.nan)]) == []
    assert verdicts([]) == []


def test_an_unpaired_difference_has_the_errors_of_both():
    assert gap(entry("a", "itda", 1.0, 3.0), entry("b", "sae", 2.0, 4.0), "fvu") == Gap(-1.0, 5.0, paired=False)
    assert gap(entry("a", "itda", 1.0, None), entry("b", "sae", 2.0, 4.0), "fvu").error == 4
    assert gap(entry("a", "itda", 1.0, None), entry("b", "sae", 2.0, math.nan), "fvu").error is None


def paired(name: str, kind: Kind, *errors: float) -> Row:
    """An entry whose FVU is one of easy and of hard documents, so that its own error is large."""
    below = (10.0,) * len(errors)
    value = sum(errors) / sum(below)
    found = Estimate(value, 0.05, ByDocument(errors, below))
    return Row(name, kind, "topk", 64, measures={"l0": Estimate(32.0), "fvu": found})


ITDA = paired("a", "itda", 1.0, 2.0, 4.0, 5.0)


def test_words_rest_on_paired_errors():
    """Errors of .05 each hide a difference of .05; in every document it is nearly the same."""
    sae = paired("b", "sae", 0.4, 1.5, 3.6, 4.5)
    verdict = fvu_verdict(ITDA, sae)
    assert (verdict.outcome, verdict.rank, verdict.against_saes) == ("loses", 2, Tally(0, 0, 1))
    error = gap(ITDA, sae, "fvu").error
    assert 0.001 < error < 0.005
    assert headline(verdict) == (
        "FVU: b is best at 0.250 ± 0.050. The best ITDA, a at 0.300 ± 0.050, is 2nd of 2, worse by "
        f"0.0500 ± {error:.4f}. The ITDA loses the only comparison with an SAE of similar L0."
    )
    alone = [dataclasses.replace(row, measures=unpaired(row)) for row in (ITDA, sae)]
    assert fvu_verdict(*alone).outcome == "ties"


def unpaired(row: Row) -> dict[str, Estimate]:
    return {name: Estimate(found.value, found.error) for name, found in row.measures.items()}


def test_an_itda_within_error_of_the_best_may_be_beyond_it_of_another():
    """The best is better in some documents only, the second in all."""
    best, second = paired("best", "sae", 4.0, 0.2, 3.0, 2.0), paired("second", "sae", 0.62, 1.58, 3.6, 4.6)
    verdict = fvu_verdict(ITDA, best, second)
    assert [row.name for row in verdict.ties] == ["second", "a"]
    assert [row.name for row in verdict.ahead] == ["second"]
    assert verdict.outcome == "loses"
    assert "), and of second. It is beyond error worse than second, by 0.04000 ± " in headline(verdict)


def test_differences_stand_in_tables_to_the_best_and_to_the_first_itda():
    sae, failed = paired("b", "sae", 0.4, 1.5, 3.6, 4.5), Row("c", "sae", failure="gone")
    earlier = dataclasses.replace(sae, name="d", measures=unpaired(sae) | {"kl_div_with_sae": Estimate(1.0)})
    best, first = tables = tables_of_differences([sae, ITDA, failed, earlier])
    assert (best.reference, first.reference) == ("the best entry", "a")
    assert best.measures == first.measures == ("fvu",)  # of KL there is nothing to subtract
    assert [name for name, _ in best.lines] == ["b", "a", "d"]
    assert best.lines[0][1] == (DASH,)
    assert best.lines[1][1][0].startswith("+0.0500 ± 0.00")
    assert first.lines[0][1][0].startswith(f"{MINUS}0.0500 ± 0.00")
    assert first.lines[2][1] == (f"{MINUS}0.050 ± 0.071 *",)
    assert "earlier version lack what it takes (d): there errors are taken as independent" in note(tables)
    assert "independent" not in note(tables_of_differences([sae, ITDA]))
    assert tables_of_differences([ITDA]) == tables_of_differences([failed]) == []


def test_costs_and_failures_are_said():
    rows = realistic_rows()
    assert cost_line(rows) == (
        "Cost, harvest included: the fastest ITDA, itda-mp-1k, took 3.17 min for 198,354 activations seen; "
        "the fastest SAE, topk-250k, took 37.9 s for 250,000 activations seen."
    )
    assert cost_line([entry("a", "itda", 0.3)]) == ""
    assert (
        failures_line(rows)
        == "15 of 16 entries have results, 2 of them reused from an earlier run. Failed: gemma-scope."
    )


def test_one_entry_of_a_kind_and_several_read_as_such():
    def timed(name: str, kind: Kind, seconds: float | None) -> Row:
        return dataclasses.replace(entry(name, kind, 0.3), cost=Cost(seconds=seconds))

    itda, sae, untimed = timed("ITDA", "itda", 30.0), timed("TopK SAE", "sae", 18.7), timed("other", "sae", None)
    assert cost_line([itda, sae]) == "Cost, harvest included: ITDA took 30 s; TopK SAE took 18.7 s."
    assert cost_line([sae, untimed]) == "Cost, harvest included: TopK SAE, the only timed SAE, took 18.7 s."
    assert failures_line([itda]) == "The entry has results."
    reused = dataclasses.replace(itda, reused=True)
    assert failures_line([reused]) == "The entry has results, reused from an earlier run."
    assert failures_line([itda, sae]) == "All 2 entries have results."
    assert failures_line([itda, Row("gone", "sae", failure="x")]) == "1 of 2 entries has results. Failed: gone."


def test_long_lists_are_counted():
    names = list("abcde")
    assert listed(names) == "a, b, c and 2 more"
    assert listed(names[:2]) == "a and b"
    assert listed(names[:1]) == "a"
