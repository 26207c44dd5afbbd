"""Scores of probes on the latents of entries: groups of marks, one group a number of latents."""

import math
from collections.abc import Mapping, Sequence

from itda_lightning.report.figures.axes import fitted_axis
from itda_lightning.report.figures.methods import Method, marker
from itda_lightning.report.figures.plots import BOTTOM, LEFT, TOP, Tick
from itda_lightning.report.figures.scatter import Mark, Scatter
from itda_lightning.report.words.columns import measure_words
from itda_lightning.report.words.wording import show_estimate
from itda_lightning.results.comparison import Estimate, Row

COUNTED, ALL, BASELINE = "probing/k=", "probing/all", "probing/dense"
SLOT, GAP, TALL, RADIUS = 12.0, 26.0, 300, 4.2


def probes_of(rows: Sequence[Row]) -> list[str]:
    """The measures of probes on latents that any entry has, by the number of latents, all of them last."""
    found = {key for row in rows for key in row.measures if math.isfinite(row.value(key))}
    counted = sorted((key for key in found if key.startswith(COUNTED)), key=lambda key: int(key.removeprefix(COUNTED)))
    return [*counted, *({ALL} & found)]


def probing_plot(rows: Sequence[Row], methods: Mapping[str, Method]) -> Scatter | None:
    """Accuracies with their errors, entries of a group in the order of the rows; None where no entry has any."""
    numbers = {row.name: number for number, row in enumerate(rows, 1)}
    probes = probes_of(rows)
    probed = [row for row in rows if any(math.isfinite(row.value(probe)) for probe in probes)]
    if not probed:
        return None
    group = max(SLOT * len(probed), 100.0)
    right = LEFT + len(probes) * (group + GAP)
    baseline = next((row.value(BASELINE) for row in rows if math.isfinite(row.value(BASELINE))), None)
    estimates = [row.measures[probe] for row in probed for probe in probes if math.isfinite(row.value(probe))]
    y = fitted_axis(
        [*(end for e in estimates for end in _ends(e)), *([baseline] if baseline is not None else [])],
        TALL - BOTTOM,
        TOP,
        log=False,
    )
    marks, ticks = [], []
    for place, probe in enumerate(probes):
        start = LEFT + GAP / 2 + place * (group + GAP)
        words = measure_words(probe)[0]
        ticks.append(Tick(start + group / 2, words.partition(", ")[2]))
        for index, row in enumerate(probed):
            if not math.isfinite(row.value(probe)):
                continue
            estimate = row.measures[probe]
            across = start + (index + 0.5) * group / len(probed)
            low, high = (y.place(end) for end in _ends(estimate))
            bars = f"M{across:.2f} {low}V{high}" if low > high else ""
            method = methods[row.name]
            title = f"{row.name}: {words} {show_estimate(estimate.value, estimate.error)}"
            shape = marker(method.shape, across, y.place(estimate.value), RADIUS)
            label = (round(across, 1), min(high, y.place(estimate.value) - RADIUS) - 6)
            marks.append(Mark(numbers[row.name], method, shape, bars, title, label))
    return Scatter(
        x_label="what the probe reads",
        y_label="accuracy",
        summary=f"Accuracy of probes on the latents of {len(probed)} entries, from "
        f"{min(e.value for e in estimates):.2f} to {max(e.value for e in estimates):.2f}; all figures are in the table.",
        x_ticks=tuple(ticks),
        y_ticks=y.ticks,
        marks=tuple(marks),
        rule=None if baseline is None else Tick(y.place(baseline), "the activation itself"),
        rule_end=False,
        width=round(right) + 12,
        right=round(right),
        height=TALL,
        bottom=TALL - BOTTOM,
    )


def _ends(estimate: Estimate) -> tuple[float, float]:
    error = estimate.error if estimate.error is not None and math.isfinite(estimate.error) else 0.0
    return estimate.value - error, estimate.value + error
