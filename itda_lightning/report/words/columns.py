"""Choose the columns of a table of entries, for pages, terminals and Weights & Biases."""

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
OF_THE_MODEL = {
    "ce_loss_without_sae",
    "ce_loss_with_ablation",
    "kl_div_with_ablation",
    "probing/dense",
    "probing_auc/dense",
}
# The page of one ITDA speaks of atoms; other entries have latents.
OWN_WORDS = {"l0": ("L0", "mean number of latents that a token uses")}


@dataclass(frozen=True)
class Column:
    """One quantity of every entry.

    Attributes:
        key: its name among measures, or ``cost/...``.
        heading, meaning: its name and its meaning for readers.
        estimate: its value in an entry, nan if the entry has none.
        show: the value in words.
    """

    key: str
    heading: str
    meaning: str
    estimate: Callable[[Row], Estimate]
    show: Callable[[Estimate], str]

    def text(self, row: Row) -> str:
        """Return the cell of an entry, a dash if it has no value."""
        estimate = self.estimate(row)
        return self.show(estimate) if math.isfinite(estimate.value) else MISSING


def measure_words(key: str) -> tuple[str, str]:
    """Return the name and the meaning of a measure of a comparison."""
    return OWN_WORDS.get(key) or describe_metric(key)


def measure_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the measures that any entry has: the standard ones first, then others in the order of the rows."""
    present = dict.fromkeys(key for row in rows for key in row.measures)
    keys = [key for key in MEASURES if key in present] + [key for key in present if key not in MEASURES]
    return [_measure(key) for key in keys if any(math.isfinite(row.value(key)) for row in rows)]


def cost_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the costs that are known of any entry."""
    return [column for column in COSTS if any(math.isfinite(column.estimate(row).value) for row in rows)]


def shared_columns(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """Return the columns about the model, not an entry, with one value for all entries: pages show them once."""
    measured = [row for row in rows if row.failure is None]
    return [
        column
        for column in columns
        if column.key in OF_THE_MODEL and len({column.estimate(row) for row in measured}) == 1
    ]


def wall_seconds(row: Row) -> float:
    """Return the seconds that an entry took, harvest of its activations included; nan if the former are unknown."""
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

    return Column(f"cost/{name}", heading, meaning, estimate, lambda cost: show(cost.value))


def _count(value: float) -> str:
    return show_number(round(value))


COSTS = (
    _cost("seconds", "Made in", "wall time of the fit or the training, harvest excluded", show_seconds),
    _cost("harvest_seconds", "Harvest", "wall time of harvesting the activations read, on this machine", show_seconds),
    _cost("activations_seen", "Seen", "training activations, repeats counted", _count),
    _cost("activations_read", "Read", "distinct training activations", _count),
    _cost("peak_bytes", "Memory", "largest resident memory of the fit or the training", show_bytes),
    _cost("parameters", "Parameters", "parameters used by encoding and decoding", show_magnitude),
    _cost("disk_bytes", "On disk", "size of its files", show_bytes),
    _cost(
        "encoded_per_second", "Encodes", "activations per second, on this machine", lambda v: f"{show_magnitude(v)}/s"
    ),
)
