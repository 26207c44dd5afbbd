"""Choose the plots of a comparison: which quantity against which, for which entries."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from itda_lightning.report.figures.densities import WIDE
from itda_lightning.report.figures.methods import Method
from itda_lightning.report.figures.scatter import Point, Scatter, radius, scatter
from itda_lightning.report.words.columns import Column, cost_estimate, measure_column, measure_words, wall_seconds
from itda_lightning.report.words.wording import show_estimate, show_magnitude, show_number, show_seconds
from itda_lightning.results.comparison import Estimate, Row

LABELS = {
    "ce_loss_increase": "CE loss increase by the reconstruction",
    "fvu": "FVU",
    "kl_div_with_sae": "KL with the reconstruction",
}
# Quantities of horizontal axes, their values shown as in a sentence.
L0 = measure_column("l0")._replace(show=lambda l0: f"L0 {show_estimate(l0.value, l0.error)}")
SEEN = Column(
    "seen",
    "training activations seen",
    "",
    lambda row: cost_estimate(row, "activations_seen"),
    lambda seen: f"{show_magnitude(seen.value)} activations seen",
)
SECONDS = Column(
    "seconds",
    "seconds, harvest included",
    "",
    lambda row: Estimate(wall_seconds(row)),
    lambda seconds: show_seconds(seconds.value),
)


class Figure(NamedTuple):
    """A plot, its name on the page, and its caption."""

    name: str
    plot: Scatter
    caption: str


def pareto_figures(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Figure]:
    """Return the plots of quality against sparsity."""
    figures = []
    for measure in LABELS:
        rule = (0.0, "model alone") if measure == "ce_loss_increase" else None
        figures += _figures(rows, methods, "pareto", measure, L0, front=True, rule=rule)
    front = "The dashed staircase is the Pareto front: no entry has less of both."
    return [figure._replace(caption=f"{figure.caption} {front}") for figure in figures]


def cost_figures(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Figure]:
    """Return the plots of quality against cost."""
    return [
        figure
        for cost in (SEEN, SECONDS)
        for measure in ("fvu", "ce_loss_increase")
        for figure in _figures(rows, methods, cost.key, measure, cost, log_y=True, width=WIDE)
    ]


def _figures(
    rows: Sequence[Row], methods: Mapping[str, Method], name: str, measure: str, across: Column, **options: Any
) -> list[Figure]:
    """Return the plot of a measure, with the numbers of the table, or nothing if no entry has a place on it."""
    words, label = measure_words(measure)[0], LABELS[measure]
    widths = [row.width for row in rows if row.failure is None and row.width > 0] or [1]
    points, values = [], []
    for number, row in enumerate(rows, 1):
        if row.failure is not None or not math.isfinite(row.value(measure)):
            continue
        x, y = across.estimate(row), row.measures[measure]
        title = f"{number} {row.name}: {words} {show_estimate(y.value, y.error)}, {across.show(x)}, "
        title += f"{show_number(row.width)} latents"
        curve = row.curve if across is SEEN and measure == "fvu" else ()
        points.append(Point(number, x, y, methods[row.name], radius(row.width, widths), title, curve))
        values.append(y.value)
    if not values:
        return []
    summary = (
        f"{words} of {len(values)} entries against {across.heading}, from {show_magnitude(min(values))} to "
        f"{show_magnitude(max(values))}; all numbers are in the table."
    )
    plot = scatter(points, x_label=across.heading, y_label=label, summary=summary, **options)
    return [] if plot is None else [Figure(f"{name}-{measure}", plot, f"{label} against {across.heading}.")]
