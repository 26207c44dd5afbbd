"""Tables of the study with one figure per layer in each cell, as the README shows them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

SHOWN = {
    "fvu": "FVU",
    "mean": "mean share",
    "p99": "99th",
    "rare": "rare",
    "ce": "CE increase",
    "kl": "KL",
}
AGAINST_RANDOM = ("fvu", "p99", "rare", "ce")
CONTROL = ", random"
Runs = dict[str, dict[int, dict[int, dict[str, Any]]]]  # cell -> layer -> draw -> row


def side_by_side(rows: Sequence[dict[str, Any]], cells: Sequence[str]) -> list[str]:
    """Return the lines of both tables: differences to the base, and dictionaries beside random ones of their size."""
    runs: Runs = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        runs[row["cell"]][row["layer"]][row["draw"]] = row
    layers = sorted(runs["base"])
    lines = ["Differences to the base on the same draws, one per layer, with errors that reach .001:", ""]
    lines += _head("cell", SHOWN)
    mean = [", ".join(_short(_mean(runs["base"][layer], name)) for layer in layers) for name in SHOWN]
    lines.append(_row("base itself", mean))
    for cell in cells:
        if cell in runs and cell != "base" and not cell.startswith("n "):
            shown = [", ".join(_difference(runs, cell, layer, name) for layer in layers) for name in SHOWN]
            lines.append(_row(cell, shown))
    lines += ["", "As grown / as many random activations, one pair per layer:", "", *_head("atoms, k", AGAINST_RANDOM)]
    for cell in cells:
        if cell + CONTROL in runs or cell == "base":
            control = "growth: random (control)" if cell == "base" else cell + CONTROL
            pairs = [
                ", ".join(
                    " / ".join(_short(_mean(runs[one][layer], name)) for one in (cell, control)) for layer in layers
                )
                for name in AGAINST_RANDOM
            ]
            lines.append(_row("4,096, 32" if cell == "base" else cell.replace("n ", "").replace("k ", ""), pairs))
    return [*lines, ""]


def _head(first: str, names: Sequence[str] | dict[str, str]) -> list[str]:
    return [_row(first, [SHOWN[name] for name in names]), "|---" * (len(names) + 1) + "|"]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _mean(draws: dict[int, dict[str, Any]], name: str) -> float:
    return statistics.mean(row[name] for row in draws.values() if name in row)


def _difference(runs: Runs, cell: str, layer: int, name: str) -> str:
    base = runs["base"][layer]
    values = [row[name] - base[draw][name] for draw, row in runs[cell][layer].items() if draw in base and name in row]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    mean = statistics.mean(values)
    return ("-" if mean < 0 else "+") + _short(abs(mean)) + (f" ± {_short(error)}" if error >= 0.0005 else "")


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
