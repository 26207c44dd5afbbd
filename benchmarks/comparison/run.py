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

from benchmarks.results import Study, commit, describe, write_results
from itda_lightning.compare import main
from itda_lightning.report.words.wording import show_bytes, show_estimate, show_seconds
from itda_lightning.results.as_json import CONVERTER, from_json
from itda_lightning.results.comparison import Comparison, Row

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
        rows.append(content | {"commit": known.get(row.identity) if row.reused else commit()})
    return {
        **describe(Study("comparison")),
        "title": comparison.title,
        "facts": comparison.facts,
        "seconds of the last run": seconds,
        "rows": rows,
    }


def from_results(content: dict[str, Any]) -> Comparison:
    """Read what ``as_json`` returned, today or before rows had an encoding."""
    rows = tuple(CONVERTER.structure({"densities": [], "encoding": None} | row, Row) for row in content["rows"])
    return Comparison(content["title"], content["facts"], rows)


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
        "on the same documents, so a difference between two is known better than both errors together say; its own "
        "error is not in this table.",
        "",
        "| entry | "
        + " | ".join(COLUMNS)
        + " | activations seen | seconds, made | seconds, harvest | peak memory | codes/s |",
        "|---" * (len(COLUMNS) + 6) + "|",
    ]
    return "\n".join([*lines, *map(as_line, comparison.rows)]) + "\n"


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
