"""Choose the plots of a comparison: which quantity against which, for which entries."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from itda_lightning.report.figures.densities import WIDE
from itda_lightning.report.figures.methods import Method
from itda_lightning.report.figures.scatter import Point, Scatter, radius, scatter
from itda_lightning.report.words.columns import measure_words, wall_seconds
from itda_lightning.report.words.wording import show_estimate, show_magnitude, show_number, show_seconds
from itda_lightning.results.comparison import Estimate, Row

LABELS = {
    "ce_loss_increase": "CE loss increase by the reconstruction",
    "fvu": "FVU",
    "kl_div_with_sae": "KL with the reconstruction",
}
PARETO = "The dashed staircase is the Pareto front: no entry has less of both."


class Quantity(NamedTuple):
    """The quantity of the horizontal axis: its label, an entry's value (nan if unknown), and that value in words."""

    label: str
    of: Callable[[Row], Estimate]
    words: Callable[[Estimate], str]


L0 = Quantity(
    "L0", lambda row: row.measures.get("l0", Estimate(math.nan)), lambda l0: f"L0 {show_estimate(l0.value, l0.error)}"
)
SEEN = Quantity(
    "training activations seen",
    lambda row: Estimate(math.nan if row.cost.activations_seen is None else float(row.cost.activations_seen)),
    lambda seen: f"{show_magnitude(seen.value)} activations seen",
)
SECONDS = Quantity(
    "seconds, harvest included",
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
    for measure, label in LABELS.items():
        plot = scatter(
            _points(rows, methods, measure, L0),
            x_label=L0.label,
            y_label=label,
            summary=_summary(rows, measure, L0),
            front=True,
            rule=(0.0, "model alone") if measure == "ce_loss_increase" else None,
        )
        if plot is not None:
            figures.append(Figure(f"pareto-{measure}", plot, f"{label} against L0. {PARETO}"))
    return figures


def cost_figures(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Figure]:
    """Return the plots of quality against cost."""
    figures = []
    for key, cost in (("seen", SEEN), ("seconds", SECONDS)):
        for measure in ("fvu", "ce_loss_increase"):
            plot = scatter(
                _points(rows, methods, measure, cost, curves=(key, measure) == ("seen", "fvu")),
                x_label=cost.label,
                y_label=LABELS[measure],
                summary=_summary(rows, measure, cost),
                log_y=True,
                width=WIDE,
            )
            if plot is not None:
                figures.append(Figure(f"{key}-{measure}", plot, f"{LABELS[measure]} against {cost.label}."))
    return figures


def _points(
    rows: Sequence[Row], methods: Mapping[str, Method], measure: str, across: Quantity, *, curves: bool = False
) -> list[Point]:
    """Return the entries that have the measure, in the order and with the numbers of the table."""
    name, _ = measure_words(measure)
    widths = [row.width for row in rows if row.failure is None and row.width > 0] or [1]
    points = []
    for number, row in enumerate(rows, 1):
        if row.failure is not None or measure not in row.measures:
            continue
        x, y = across.of(row), row.measures[measure]
        title = f"{number} {row.name}: {name} {show_estimate(y.value, y.error)}, {across.words(x)}, "
        title += f"{show_number(row.width)} latents"
        curve = tuple((float(seen), fvu) for seen, fvu in row.curve) if curves else ()
        points.append(Point(number, x, y, methods[row.name], radius(row.width, widths), title, curve))
    return points


def _summary(rows: Sequence[Row], measure: str, against: Quantity) -> str:
    name, _ = measure_words(measure)
    values = [row.value(measure) for row in rows if row.failure is None and math.isfinite(row.value(measure))]
    if not values:
        return ""
    return (
        f"{name} of {len(values)} entries against {against.label}, from {show_magnitude(min(values))} to "
        f"{show_magnitude(max(values))}; all numbers are in the table."
    )
