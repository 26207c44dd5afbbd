"""Measure which measures see that models were fine-tuned in the same way: ReSi's group separation.

    python -m benchmarks.resi.classifiers --directory runs/layer-matching-large
    python -m benchmarks.resi.groups [--directory runs/resi]

Three tests of three groups of five classifiers (``variants.py``). All pairs of a test are compared by every
measure, on texts that none was trained on. Errors are jackknifed over seeds. Writes results/groups.json and groups.md;
a test that is there is not measured again.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.resi.classifiers import COMPARED, SOURCES, TRAINED, kept
from benchmarks.resi.matrices import NAMES, all_measures
from benchmarks.resi.scores import jackknife, mean_similarities, separation
from benchmarks.resi.variants import DATASET, TESTS, VARIANTS
from benchmarks.results import Study, describe, environment, table, write_results

RESULTS = Path(__file__).parent / "results"


def measure(test: str, directory: Path, seeds: int) -> list[dict[str, Any]]:
    """Return a row per measure of one test."""
    models = [kept(directory, variant, seed) for variant in TESTS[test] for seed in range(seeds)]
    found = all_measures([one.sources for one in models], [one.compared for one in models])
    groups = [group for group in range(len(TESTS[test])) for _ in range(seeds)]
    rows = []
    for name, one in found.items():
        whole = separation(one.values, groups)

        def auprc(kept_seeds: list[int], values: torch.Tensor = one.values) -> float:
            places = [group * seeds + seed for group in range(len(TESTS[test])) for seed in kept_seeds]
            return separation(values[places][:, places], [groups[place] for place in places]).auprc

        without, error = jackknife(auprc, seeds)
        rows.append({"test": test, "measure": name, **whole._asdict(), "error": error, "without_a_seed": without})
        rows[-1] |= {"similarities": mean_similarities(one.values, groups), "seconds": one.seconds}
    return rows


def trained(directory: Path, seeds: int) -> list[dict[str, Any]]:
    """Return a row per group of models: how well they classify what they were trained on, and unmodified texts."""
    rows = []
    for variant in VARIANTS:
        facts = [kept(directory, variant, seed).facts for seed in range(seeds)]
        figures = ("training_accuracy", "accuracy", "seconds")
        rows.append({"group": variant, **{name: statistics.mean(one[name] for one in facts) for name in figures}})
    return rows


def main(directory: Path = Path("runs/resi"), seeds: int = 5, only: list[str] | None = None, note: str = "") -> None:
    """Measure the missing tests.

    Args:
        directory: of what is kept of the classifiers.
        seeds: that each group has.
        only: tests that are measured again.
        note: what else the machine did.
    """
    path = RESULTS / "groups.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for test in TESTS:
        if test in (only or []) or test not in {row["test"] for row in rows}:
            rows = [row for row in rows if row["test"] != test] + measure(test, directory, seeds)
            result = {
                **describe(Study("resi/groups", "GPT-2-style", dataset=DATASET, seed=0)),
                "texts": {"trained": TRAINED, "compared": COMPARED, "sources": SOURCES},
                "seeds": seeds,
                "note": note,
                "models": trained(directory, seeds),
                "rows": rows,
            }
            write_results(RESULTS, "groups", result, as_markdown(result))


def chance(seeds: int, groups: int) -> float:
    """Return the share of a group's pairs among all pairs with a model of it: the AUPRC of random similarities."""
    within, across = seeds * (seeds - 1) / 2, seeds * seeds * (groups - 1)
    return within / (within + across)


def as_markdown(result: dict[str, Any]) -> str:
    """Return AUPRC and violation rates of each measure and test, and what the groups have learned."""
    tests = list(dict.fromkeys(row["test"] for row in result["rows"]))
    by_name = {(row["test"], row["measure"]): row for row in result["rows"]}
    texts, seeds = result["texts"], result["seeds"]
    lines = [
        f"{seeds} classifiers per group, three groups per test, {result['dataset']} of sae-probes; trained on "
        f"{texts['trained']:,} texts, compared on {texts['compared']:,}, dictionaries of {texts['sources']:,} others. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        f"AUPRC ± standard error over seeds (chance {chance(seeds, 3):.3f}), violation rate, and seconds of processor "
        "time for the three tests:",
        "",
        *table(
            ["measure", *tests, "seconds"],
            (
                (
                    name,
                    *(
                        f"{row['auprc']:.3f} ± {row['error']:.3f}, {row['violations']:.3f}"
                        for row in (by_name[test, name] for test in tests)
                    ),
                    f"{sum(by_name[test, name]['seconds'] for test in tests):.1f}",
                )
                for name in NAMES
            ),
        ),
        "",
        "What the groups have learned, mean over seeds:",
        "",
        *table(
            ["group", "right on the texts and labels trained on", "right on the compared texts", "seconds per model"],
            (
                (row["group"], f"{row['training_accuracy']:.3f}", f"{row['accuracy']:.3f}", f"{row['seconds']:.1f}")
                for row in result["models"]
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
