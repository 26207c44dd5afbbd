"""Tables of the transcoder study: each row's figures, and its differences to the affine map with paired errors."""

from typing import Any

from benchmarks.results import environment, table
from itda_lightning.results.comparison import ByDocument, Estimate, Row
from itda_lightning.results.paired import paired_difference

MEASURES = ("FVU", "CE increase", "KL")
CONTROL = "affine map"


def parts(estimate: Estimate) -> list[tuple[float, ...]]:
    """Return the sums over documents of an estimate, as JSON holds them."""
    assert estimate.documents is not None
    return [estimate.documents.above, estimate.documents.below]


def as_markdown(result: dict[str, Any]) -> str:
    """Return a table for each layer."""
    lines = [f"MLPs of {result['model']}: {environment(result)}"]
    head = ["row", "FVU of the output", "CE increase", "KL", "mean L0", "seconds"]
    for layer, rows in result["layers"].items():
        cells = [[name, *_cells(row)] for name, row in rows.items()]
        lines += ["", f"**{layer.capitalize()}**", "", *table(head, cells)]
        if all("documents" in row for row in rows.values()):
            lines += ["", f"Less the {CONTROL}, on the same resampled documents:", ""]
            lines += table(["row", *MEASURES], differences(rows))
    return "\n".join(lines) + "\n"


def differences(rows: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the differences of all rows to the affine map."""
    made = {}
    for name, row in rows.items():
        measures = {}
        for measure in MEASURES:
            (value, error), sums = row[measure], ByDocument(*map(tuple, row["documents"][measure]))
            measures[measure] = Estimate(value, error, documents=sums)
        made[name] = Row(name, "sae", tokens_hash="one", measures=measures)
    cells = []
    for name, row in made.items():
        gaps = [paired_difference(row, made[CONTROL], measure) for measure in MEASURES if name != CONTROL]
        if gaps:
            cells.append([name, *(f"{gap.value:+.4f} ± {gap.error:.4f}" for gap in gaps if gap is not None)])
    return cells


def _cells(row: dict[str, Any]) -> list[str]:
    measured = [f"{value:.3f} ± {error:.3f}" for value, error in (row[key] for key in MEASURES)]
    return [*measured, f"{row['l0']:.1f}", f"{row['seconds']:,.0f}"]
