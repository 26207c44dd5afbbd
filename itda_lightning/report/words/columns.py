"""What a table of entries has in its columns, for pages, terminals and Weights & Biases alike."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from itda_lightning.report.words.wording import (
    describe_metric,
    show_bytes,
    show_estimate,
    show_magnitude,
    show_number,
    show_seconds,
)
from itda_lightning.results.comparison import MEASURES, Estimate, Row

MISSING = "\N{EN DASH}"
# What entries measure by latents is of atoms for an ITDA, so the words of a run's page do not fit all.
OF_THE_MODEL = {
    "ce_loss_without_sae",
    "ce_loss_with_ablation",
    "kl_div_with_ablation",
    "probing/dense",
    "probing_auc/dense",
}
OWN_WORDS = {"l0": ("L0", "mean number of latents that a token uses")}


@dataclass(frozen=True)
class Column:
    """One quantity of every entry.

    Attributes:
        key: its name among measures, or ``cost/...``.
        heading, meaning: its name for readers, and what it is.
        estimate: its value in an entry, nan where the entry has none.
        show: the value in words.
    """

    key: str
    heading: str
    meaning: str
    estimate: Callable[[Row], Estimate]
    show: Callable[[Estimate], str]

    def text(self, row: Row) -> str:
        """The cell of an entry, a dash where it has no value."""
        estimate = self.estimate(row)
        return self.show(estimate) if math.isfinite(estimate.value) else MISSING


def measure_words(key: str) -> tuple[str, str]:
    """The name of a measure of a comparison, and what it is."""
    return OWN_WORDS.get(key) or describe_metric(key)


def measure_columns(rows: Sequence[Row]) -> list[Column]:
    """The measures that any entry has: those that all comparisons have first, then the others, as first met."""
    found = dict.fromkeys(key for row in rows for key in row.measures)
    keys = [key for key in MEASURES if key in found] + [key for key in found if key not in MEASURES]
    return [_measure(key) for key in keys if any(math.isfinite(row.value(key)) for row in rows)]


def cost_columns(rows: Sequence[Row]) -> list[Column]:
    """The costs that are known of any entry."""
    return [column for column in COSTS if any(math.isfinite(column.estimate(row).value) for row in rows)]


def shared_columns(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """The columns about the model, not about entries, that have one value for all entries: they are told once."""
    measured = [row for row in rows if row.failure is None]
    return [
        column
        for column in columns
        if column.key in OF_THE_MODEL and len({column.estimate(row) for row in measured}) == 1
    ]


def wall_seconds(row: Row) -> float:
    """The time that an entry took with the harvest of what it was made from, nan where the former is unknown."""
    if row.cost.seconds is None:
        return math.nan
    return row.cost.seconds + (row.cost.harvest_seconds or 0.0)


def _measure(key: str) -> Column:
    heading, meaning = measure_words(key)
    return Column(
        key,
        heading,
        meaning,
        lambda row: row.measures.get(key, Estimate(math.nan)),
        lambda estimate: show_estimate(estimate.value, estimate.error),
    )


def _cost(name: str, heading: str, meaning: str, show: Callable[[float], str]) -> Column:
    def estimate(row: Row) -> Estimate:
        value = getattr(row.cost, name)
        return Estimate(math.nan if value is None else float(value))

    return Column(f"cost/{name}", heading, meaning, estimate, lambda known: show(known.value))


def _count(value: float) -> str:
    return show_number(round(value))


COSTS = (
    _cost("seconds", "Made in", "wall time of the fit or the training, without the harvest", show_seconds),
    _cost("harvest_seconds", "Harvest", "wall time in which this machine harvested the activations read", show_seconds),
    _cost("activations_seen", "Seen", "training activations, each as often as it was seen", _count),
    _cost("activations_read", "Read", "distinct training activations", _count),
    _cost("peak_bytes", "Memory", "largest resident memory of the process that made it", show_bytes),
    _cost("parameters", "Parameters", "numbers that encoding and decoding need", show_magnitude),
    _cost("disk_bytes", "On disk", "size of its files", show_bytes),
    _cost(
        "encoded_per_second", "Encodes", "activations in a second, on this machine", lambda v: f"{show_magnitude(v)}/s"
    ),
)
