"""Choose the columns of a table of entries, for pages, terminals and Weights & Biases."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from itda_lightning.report.words.wording import (
    DASH,
    describe_metric,
    show_bytes,
    show_estimate,
    show_magnitude,
    show_seconds,
)
from itda_lightning.results.comparison import MEASURES, Estimate, Row

# Measures of the model, not of an entry.
OF_THE_MODEL = {
    "ce_loss_without_sae",
    "ce_loss_with_ablation",
    "kl_div_with_ablation",
    "probing/dense",
    "probing_auc/dense",
}


class Column(NamedTuple):
    """One quantity of every entry; the key of a cost is ``cost/...``, and an estimate that is not known nan."""

    key: str
    heading: str
    meaning: str
    estimate: Callable[[Row], Estimate]
    show: Callable[[Estimate], str]

    def text(self, row: Row) -> str:
        """Return the cell of an entry, a dash if it has no value."""
        estimate = self.estimate(row)
        return self.show(estimate) if math.isfinite(estimate.value) else DASH


def measure_words(key: str) -> tuple[str, str]:
    """Return the name and the meaning of a measure of a comparison, whose entries have latents and not atoms."""
    return ("L0", "mean number of latents that a token uses") if key == "l0" else describe_metric(key)


def measure_column(key: str) -> Column:
    """Return the column of a measure."""
    return Column(
        key,
        *measure_words(key),
        lambda row: row.measures.get(key, Estimate(math.nan)),
        lambda estimate: show_estimate(estimate.value, estimate.error),
    )


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Return what is known of any entry: standard measures, others in the order of the rows, costs."""
    keys = dict.fromkeys([*MEASURES, *(key for row in rows for key in row.measures)])
    columns = [*map(measure_column, keys), *COSTS]
    return [column for column in columns if any(math.isfinite(column.estimate(row).value) for row in rows)]


def shared_columns(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """Return the columns about the model, not an entry, with one value for all entries: pages show them once."""
    measured = [row for row in rows if row.failure is None]
    return [
        column
        for column in columns
        if column.key in OF_THE_MODEL and len({column.estimate(row) for row in measured}) == 1
    ]


def cost_estimate(row: Row, name: str) -> Estimate:
    """Return a cost of an entry, nan if it is unknown."""
    value = getattr(row.cost, name)
    return Estimate(math.nan if value is None else float(value))


def wall_seconds(row: Row) -> float:
    """Return the seconds that an entry took, harvest of its activations included; nan if the former are unknown."""
    return math.nan if row.cost.seconds is None else row.cost.seconds + (row.cost.harvest_seconds or 0.0)


def _cost(name: str, heading: str, meaning: str, show: Callable[[float], str]) -> Column:
    return Column(f"cost/{name}", heading, meaning, lambda row: cost_estimate(row, name), lambda cost: show(cost.value))


COSTS = (
    _cost("seconds", "Made in", "wall time of the fit or the training, harvest excluded", show_seconds),
    _cost("harvest_seconds", "Harvest", "wall time of harvesting the activations read, on this machine", show_seconds),
    _cost("activations_seen", "Seen", "training activations, repeats counted", "{:,.0f}".format),
    _cost("activations_read", "Read", "distinct training activations", "{:,.0f}".format),
    _cost("peak_bytes", "Memory", "largest resident memory of the fit or the training", show_bytes),
    _cost("parameters", "Parameters", "parameters used by encoding and decoding", show_magnitude),
    _cost("disk_bytes", "On disk", "size of its files", show_bytes),
    _cost(
        "encoded_per_second", "Encodes", "activations per second, on this machine", lambda v: f"{show_magnitude(v)}/s"
    ),
)
