"""Run `compare` on a config beside this file and keep its figures without the page.

    python -m benchmarks.comparison.run [smollm2-135m | refined | meaning | layer14 | layer4 | layer25]

Rows that an earlier run finished are taken over, so it may be stopped and started again. Writes results/CONFIG.json
(rows without densities and latents, facts, seconds) and results/CONFIG.md.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results import Study, commit, describe, table, write_results
from itda_lightning.compare import main
from itda_lightning.report.words.wording import show_bytes, show_estimate, show_seconds
from itda_lightning.results.as_json import CONVERTER, UNPAIRED, from_json
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.results.paired import paired_difference

HERE = Path(__file__).parent
COLUMNS = (
    "l0",
    "fvu",
    "cossim",
    "ce_loss_with_sae",
    "ce_loss_increase",
    "ce_loss_score",
    "kl_div_with_sae",
    "dead_share",
    "probing/k=1",
    "probing/k=16",
    "probing/detected k=16",
    "probing/all",
)


def as_json(comparison: Comparison, seconds: float, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what is kept: each row with its commit, of a reused one that of the ``earlier`` results."""
    known = {row["identity"]: row.get("commit") for row in (earlier or {}).get("rows", [])}
    rows = []
    for row in comparison.rows:
        content = dataclasses.asdict(row)
        del content["densities"]
        content["measures"] = {name: {"value": e.value, "error": e.error} for name, e in row.measures.items()}
        rows.append(content | {"commit": known.get(row.identity) if row.reused else commit()})
    return {
        **describe(Study("comparison")),
        "title": comparison.title,
        "facts": comparison.facts,
        "seconds of the last run": seconds,
        "rows": rows,
        "differences": differences(comparison),
    }


def differences(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the paired differences of each row to the first ITDA: what sums by document, which are not kept, give."""
    rows = [row for row in comparison.rows if row.failure is None]
    itda = next((row for row in rows if row.kind == "itda"), None)
    if itda is None:
        return []
    gaps = []
    for row in rows:
        found = {name: paired_difference(row, itda, name) for name in COLUMNS} if row is not itda else {}
        known = {name: {"value": e.value, "error": e.error} for name, e in found.items() if e is not None}
        if known:
            gaps.append({"name": f"{row.name} less {itda.name}", "measures": known})
    return gaps


def from_results(content: dict[str, Any]) -> Comparison:
    """Read what ``as_json`` returned, today or before rows had all fields."""
    rows = tuple(map(_row_from, content["rows"]))
    return Comparison(content["title"], content["facts"], rows)


def _row_from(content: dict[str, Any]) -> Row:
    measures = {name: estimate | UNPAIRED for name, estimate in content["measures"].items()}
    return CONVERTER.structure(
        {"densities": [], "encoding": None, "decay_from": None} | content | {"measures": measures}, Row
    )


def as_markdown(result: dict[str, Any]) -> str:
    comparison = from_results(result)
    facts = "; ".join(f"{name} {value}" for name, value in comparison.facts.items())
    first = next(row for row in comparison.rows if row.failure is None)
    of_model = ("ce_loss_without_sae", "ce_loss_with_ablation", "probing/dense")
    same = {name: first.measures[name] for name in of_model if name in first.measures}
    lines = [
        f"{comparison.title}.",
        "",
        facts + ".",
        "",
        "The same for all: "
        + ", ".join(f"{name} {show_estimate(estimate.value, estimate.error)}" for name, estimate in same.items())
        + ". Errors are standard errors over documents, of probes over draws, of each row alone. All rows are measured "
        "on the same documents, so a difference between two is known better than both errors together say"
        + (
            "; those to the first ITDA follow."
            if result.get("differences")
            else "; its own error is not in this table."
        ),
        "",
        "| entry | "
        + " | ".join(COLUMNS)
        + " | activations seen | seconds, made | seconds, harvest | peak memory | codes/s |",
        "|---" * (len(COLUMNS) + 6) + "|",
    ]
    lines += map(as_line, comparison.rows)
    if result.get("differences"):
        lines += ["", "Differences, of the same resampled documents, or the same draws of probes:", ""]
        lines += table(["", *COLUMNS], map(as_difference, result["differences"]))
    return "\n".join(lines) + "\n"


def as_difference(difference: dict[str, Any]) -> list[str]:
    """Return the cells of a row less the first ITDA."""
    measures = difference["measures"]
    return [difference["name"], *(show_estimate(**measures[name]) if name in measures else "" for name in COLUMNS)]


def as_line(row: Row) -> str:
    if row.failure is not None:
        return f"| {row.name} | failed: {row.failure} |" + " |" * (len(COLUMNS) + 4)
    cells = [row.name]
    for name in COLUMNS:
        estimate = row.measures.get(name)
        cells.append("" if estimate is None else show_estimate(estimate.value, estimate.error))
    cost = row.cost
    cells += [
        f"{cost.activations_seen or 0:,}",
        show_seconds(cost.seconds or 0.0),
        show_seconds(cost.harvest_seconds or 0.0),
        show_bytes(cost.peak_bytes or 0),
        f"{cost.encoded_per_second or 0:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    start = time.perf_counter()
    config, *others = sys.argv[1:] or ["smollm2-135m"]
    path = HERE / f"{config}.yaml"
    directory = Path(yaml.safe_load(path.read_text(encoding="utf-8"))["directory"])
    code = main(["--config", str(path), *others])
    comparison = from_json((directory / "comparison.json").read_text(encoding="utf-8"), Comparison)
    kept = HERE / "results" / f"{config}.json"
    earlier = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
    content = as_json(comparison, time.perf_counter() - start, earlier)
    write_results(HERE / "results", config, content, as_markdown(content))
    sys.exit(code)
