"""Write the score of each room and the list of survivors from the outcomes of ``run``.

python -m benchmarks.mutation.report
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.results import Study, describe, environment, table, write_results

FOLDER = Path(__file__).parent
NOTICED = ("killed", "endless")


def main() -> None:
    """Read outcomes and verdicts, write ``results/score.json`` and ``results/score.md``."""
    mutants, verdicts = _outcomes()
    results = describe(Study("mutation/report", seed=0)) | {"rooms": scores(mutants, verdicts)}
    write_results(FOLDER / "results", "score", results, as_markdown(results))


def scores(mutants: dict[str, dict[str, Any]], verdicts: dict[str, str]) -> dict[str, dict[str, int]]:
    """Count per room, and in all, the mutants and those noticed at first and in the end, equivalent ones apart."""
    rooms: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("mutants", "equivalent", "first", "now"), 0))
    for key, mutant in mutants.items():
        for room in (mutant["room"], "all"):
            rooms[room]["mutants"] += 1
            rooms[room]["equivalent"] += key in verdicts
            rooms[room]["first"] += mutant["first"] in NOTICED and key not in verdicts
            rooms[room]["now"] += mutant["outcome"] in NOTICED and key not in verdicts
    return dict(rooms)


def as_markdown(results: dict[str, Any]) -> str:
    """Lay out the scores, and the survivors of the outcomes beside them."""
    mutants, verdicts = _outcomes()
    rows = []
    for room, counts in results["rooms"].items():
        total = counts["mutants"] - counts["equivalent"]
        shares = [f"{counts[name] / total:.0%}" if total else "" for name in ("first", "now")]
        rows.append([room, *(f"{counts[name]}" for name in ("mutants", "equivalent")), *shares])
    lines = [f"{environment(results)}", ""]
    lines += table(["room", "mutants", "equivalent", "noticed at first", "noticed now"], rows)
    left = [(key, mutant) for key, mutant in mutants.items() if mutant["outcome"] not in NOTICED]
    lines += ["", "Survivors:", ""]
    change = "`{before}` becomes `{after}`"
    lines += table(
        ["place", "change", "verdict"],
        [
            [
                f"{mutant['file']}:{mutant['line']} `{mutant['function']}`",
                change.format(**{name: _cell(mutant[name]) for name in ("before", "after")}),
                verdicts.get(key, "open"),
            ]
            for key, mutant in left
        ],
    )
    return "\n".join(lines) + "\n"


def _outcomes() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    paths = FOLDER / "results" / "mutants.json", FOLDER / "verdicts.json"
    mutants, verdicts = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return {key: value for key, value in mutants.items() if not key.startswith("commit")}, verdicts


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:100]


if __name__ == "__main__":
    main()
