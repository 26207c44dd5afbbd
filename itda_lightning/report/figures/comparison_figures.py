"""The plots of a comparison: which quantity against which, for which entries."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from itda_lightning.report.figures.methods import Method
from itda_lightning.report.figures.overlay import WIDE
from itda_lightning.report.figures.scatter import Point, Scatter, radius, scatter
from itda_lightning.report.words.columns import measure_words, wall_seconds
from itda_lightning.report.words.wording import show_estimate, show_magnitude, show_number, show_seconds
from itda_lightning.results.comparison import Estimate, Row

ALONE = "ce_loss_without_sae"
PARETO = "The dashed staircase is the Pareto front: no entry has less of both."


class Figure(NamedTuple):
    """A plot, the name that it has on the page, and its caption."""

    name: str
    plot: Scatter
    caption: str


def pareto_figures(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Figure]:
    """Quality against sparsity."""
    figures = []
    for measure, y_label in (
        ("ce_loss_increase", "CE loss increase by the reconstruction"),
        ("fvu", "FVU"),
        ("kl_div_with_sae", "KL with the reconstruction"),
    ):
        plot = scatter(
            _points(rows, methods, measure, _l0, _l0_words),
            x_label="L0",
            y_label=y_label,
            summary=_summary(rows, measure, "L0"),
            front=True,
            rule=(0.0, "model alone") if measure == "ce_loss_increase" else None,
        )
        if plot is not None:
            figures.append(Figure(f"pareto-{measure}", plot, f"{y_label} against L0. {PARETO}"))
    return figures


def cost_figures(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Figure]:
    """Quality against what it took."""
    figures = []
    for key, x_label, cost, words in (
        ("seen", "training activations seen", _seen, _seen_words),
        ("seconds", "seconds, harvest included", _wall, _wall_words),
    ):
        for measure, y_label in (("fvu", "FVU"), ("ce_loss_increase", "CE loss increase by the reconstruction")):
            plot = scatter(
                _points(rows, methods, measure, cost, words, curves=(key, measure) == ("seen", "fvu")),
                x_label=x_label,
                y_label=y_label,
                summary=_summary(rows, measure, x_label),
                log_y=True,
                width=WIDE,
            )
            if plot is not None:
                figures.append(Figure(f"{key}-{measure}", plot, f"{y_label} against {x_label}."))
    return figures


def density_lines(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[tuple[int, Method, Sequence[float]]]:
    """(number, method, densities) of the entries whose densities are known."""
    return [
        (number, methods[row.name], row.densities)
        for number, row in enumerate(rows, 1)
        if row.failure is None and row.densities
    ]


def _points(
    rows: Sequence[Row],
    methods: Mapping[str, Method],
    measure: str,
    across: Callable[[Row], Estimate],
    words: Callable[[Estimate], str],
    *,
    curves: bool = False,
) -> list[Point]:
    """Entries that have the measure, in the order and with the numbers of the table."""
    name, _ = measure_words(measure)
    widths = [row.width for row in rows if row.failure is None and row.width > 0] or [1]
    return [
        Point(
            number,
            across(row),
            row.measures[measure],
            methods[row.name],
            radius(row.width, widths),
            f"{number} {row.name}: {name} {show_estimate(row.measures[measure].value, row.measures[measure].error)}, "
            f"{words(across(row))}, {show_number(row.width)} latents",
            tuple((float(seen), fvu) for seen, fvu in row.curve) if curves else (),
        )
        for number, row in enumerate(rows, 1)
        if row.failure is None and measure in row.measures
    ]


def _summary(rows: Sequence[Row], measure: str, against: str) -> str:
    name, _ = measure_words(measure)
    values = [row.value(measure) for row in rows if row.failure is None and math.isfinite(row.value(measure))]
    if not values:
        return ""
    return (
        f"{name} of {len(values)} entries against {against}, from {show_magnitude(min(values))} to "
        f"{show_magnitude(max(values))}; all figures are in the table."
    )


def _l0(row: Row) -> Estimate:
    return row.measures.get("l0", Estimate(math.nan))


def _seen(row: Row) -> Estimate:
    return Estimate(math.nan if row.cost.activations_seen is None else float(row.cost.activations_seen))


def _wall(row: Row) -> Estimate:
    return Estimate(wall_seconds(row))


def _l0_words(l0: Estimate) -> str:
    return f"L0 {show_estimate(l0.value, l0.error)}"


def _seen_words(seen: Estimate) -> str:
    return f"{show_magnitude(seen.value)} activations seen"


def _wall_words(seconds: Estimate) -> str:
    return show_seconds(seconds.value)
