"""Tables of the results: figures by row and site, and what they are less those of the joint ITDA."""

from typing import Any

from benchmarks.results import environment, table

MEASURES = ("FVU", "CE increase", "KL")
REFERENCE = "joint ITDA, refined"


def as_markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    named = result["hook_name"]
    sites = named if isinstance(named, list) else named.split("+")
    labels = [site.split(".")[1] if site.startswith("blocks.") else site for site in sites]
    title = result.get("title") or f"Layers {', '.join(labels)} of {result['model']}"
    head = [f"{name} {label}" for label in labels for name in MEASURES]
    lines = [f"{title}: {environment(result)}", ""]
    lines += table(
        ["row", "atoms per token and layer", "seconds", *head],
        (
            [name, f"{row['l0 per layer']:.1f}", f"{row['seconds']:,.0f}", *_cells(row, sites)]
            for name, row in result["rows"].items()
        ),
    )
    less = [f"{site}, less" for site in sites]
    compared = {name: row for name, row in result["rows"].items() if less[0] in row}
    if compared:
        lines += ["", f"Less the {REFERENCE}, paired over documents:", ""]
        lines += table(["row", *head], ([name, *_cells(row, less, "+")] for name, row in compared.items()))
    return "\n".join([*lines, ""])


def _cells(row: dict[str, Any], sites: list[str], sign: str = "") -> list[str]:
    return [f"{value:{sign}.3f} ± {error:.3f}" for site in sites for value, error in row[site].values()]
