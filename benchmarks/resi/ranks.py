"""Rank the measures over the tests of ``groups.py`` and ``layers.py``.

    python -m benchmarks.resi.ranks

A rank is by AUPRC of each test of groups and by conformity of each test of layers; 1 is best, equal scores share their
mean. Errors are jackknifed over seeds: each is left out of all tests that have seeds. Writes results/ranks.json and
ranks.md.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.resi.matrices import NAMES
from benchmarks.resi.scores import error_of, mean_ranks
from benchmarks.results import Study, describe, table, write_results

RESULTS = Path(__file__).parent / "results"
SCORES = {"groups": "auprc", "layers": "conformity"}


def ranked(rows: dict[str, list[dict[str, Any]]], pairs: str = "all") -> list[dict[str, Any]]:
    """Return a row per measure, best first: its scores by test, mean rank, and the rank's error over seeds."""
    by_test: dict[str, dict[str, dict[str, Any]]] = {}
    for script, score in SCORES.items():
        for row in rows[script]:
            if row.get("pairs", pairs) == pairs:
                by_test.setdefault(f"{script}: {row['test']}", {})[row["measure"]] = row | {"score": row[score]}
    tests = list(by_test.values())
    names = [name for name in NAMES if all(name in test for test in tests)]
    units = max(len(test[name]["without_a_seed"]) for test in tests for name in names)

    def score_of(row: dict[str, Any], left: int | None) -> float:
        without = row["without_a_seed"]
        return without[left] if left is not None and left < len(without) else row["score"]

    def ranks(left: int | None) -> torch.Tensor:
        return mean_ranks(torch.tensor([[score_of(test[name], left) for name in names] for test in tests]).double())

    whole, without = ranks(None), torch.stack([ranks(left) for left in range(units)])
    own = [
        {
            "measure": name,
            "rank": float(whole[place]),
            "error": error_of(without[:, place].tolist()),
            **{title: test[name]["score"] for title, test in by_test.items()},
        }
        for place, name in enumerate(names)
    ]
    return sorted(own, key=lambda row: row["rank"])


def main() -> None:
    """Rank the measures by the committed results."""
    rows: dict[str, list[dict[str, Any]]] = {script: [] for script in SCORES}
    for script, own in rows.items():
        for path in sorted(RESULTS.glob(f"{script}*.json")):
            own += json.loads(path.read_text())["rows"]
    result = {**describe(Study("resi/ranks")), "rows": ranked(rows), "other_seeds": ranked(rows, "other seeds")}
    write_results(RESULTS, "ranks", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the measures with their mean ranks and scores, best first."""
    return "\n".join(
        [
            f"Mean rank of {len(result['rows'])} measures ± standard error over seeds, then AUPRC of groups and "
            "conformity of layers:",
            "",
            *_table(result["rows"]),
            "",
            "The same without pairs across groups that start from the same seed:",
            "",
            *_table(result["other_seeds"]),
            "",
        ]
    )


def _table(rows: list[dict[str, Any]]) -> list[str]:
    tests = [name for name in rows[0] if name not in ("measure", "rank", "error")]
    cells = (
        (row["measure"], f"{row['rank']:.1f} ± {row['error']:.1f}", *(f"{row[test]:.3f}" for test in tests))
        for row in rows
    )
    return table(["measure", "mean rank", *tests], cells)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
