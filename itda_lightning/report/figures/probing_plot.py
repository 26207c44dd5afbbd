"""Lay out accuracies of probes on the latents of entries: one group of marks per number of latents."""

import math
from collections.abc import Mapping, Sequence

from itda_lightning.report.figures.axes import Axis, Tick, error_ends, fitted_axis
from itda_lightning.report.figures.methods import Method, marker
from itda_lightning.report.figures.plots import BOTTOM, LEFT, TOP
from itda_lightning.report.figures.scatter import Mark, Scatter
from itda_lightning.report.words.columns import measure_words
from itda_lightning.report.words.wording import show_estimate
from itda_lightning.results.comparison import Row

BASELINE = "probing/dense"
SLOT, NARROWEST_GROUP, GAP, TALL, RADIUS = 12.0, 100.0, 26.0, 300, 4.2


def probes_of(rows: Sequence[Row]) -> list[str]:
    """Return the measures of probes on latents that any entry has, by the number of latents, all latents last."""
    keys = {key for row in rows for key in row.measures if math.isfinite(row.value(key))}
    counted = (key for key in keys if key.startswith("probing/k="))
    return [*sorted(counted, key=lambda key: int(key.partition("=")[2])), *({"probing/all"} & keys)]


def probing_plot(rows: Sequence[Row], methods: Mapping[str, Method]) -> Scatter | None:
    """Lay out accuracies with their errors, entries of a group in the order of the rows; None if no entry has any."""
    probes = probes_of(rows)
    probed = [
        (number, row) for number, row in enumerate(rows, 1) if any(math.isfinite(row.value(probe)) for probe in probes)
    ]
    if not probed:
        return None
    baseline = [row.value(BASELINE) for row in rows if math.isfinite(row.value(BASELINE))][:1]
    estimates = [row.measures[probe] for _, row in probed for probe in probes if math.isfinite(row.value(probe))]
    ends = [end for estimate in estimates for end in error_ends(estimate)]
    y = fitted_axis([*ends, *baseline], TALL - BOTTOM, TOP, log=False)
    group = max(SLOT * len(probed), NARROWEST_GROUP)
    marks, ticks = [], []
    for place, probe in enumerate(probes):
        start = LEFT + GAP / 2 + place * (group + GAP)
        words = measure_words(probe)[0]
        ticks.append(Tick(start + group / 2, words.partition(", ")[2]))
        for index, (number, row) in enumerate(probed):
            if not math.isfinite(row.value(probe)):
                continue
            estimate, method = row.measures[probe], methods[row.name]
            x, middle = start + (index + 0.5) * group / len(probed), y.place(estimate.value)
            low, high = map(y.place, error_ends(estimate))
            shape, bars = marker(method.shape, x, middle, RADIUS), f"M{x:.2f} {low}V{high}" if low > high else ""
            title = f"{row.name}: {words} {show_estimate(estimate.value, estimate.error)}"
            marks.append(Mark(number, method, shape, bars, title, (round(x, 1), min(high, middle - RADIUS) - 6)))
    values = [estimate.value for estimate in estimates]
    return Scatter(
        x=Axis(0, 1, LEFT, round(LEFT + len(probes) * (group + GAP)), ticks=tuple(ticks)),
        y=y,
        x_label="what the probe reads",
        y_label="accuracy",
        summary=f"Accuracy of probes on the latents of {len(probed)} entries, from {min(values):.2f} to "
        f"{max(values):.2f}; all numbers are in the table.",
        marks=tuple(marks),
        rule=Tick(y.place(baseline[0]), "the activation itself") if baseline else None,
        rule_end=False,
    )
