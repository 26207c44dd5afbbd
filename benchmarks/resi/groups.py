"""Measure which measures see that models were fine-tuned in the same way: ReSi's group separation.

    python -m benchmarks.resi.classifiers --directory runs/layer-matching-large
    python -m benchmarks.resi.groups [--directory runs/resi]

Three tests of three groups of five classifiers (``variants.py``). All pairs of a test are compared by every
measure, on texts that none was trained on. Errors are jackknifed over seeds. Writes results/groups.json and groups.md;
a test that is there is not measured again.
"""

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.resi.classifiers import COMPARED, SOURCES, TRAINED, kept
from benchmarks.resi.matrices import NAMES, all_measures
from benchmarks.resi.scores import Separation, jackknife, mean_similarities, separation
from benchmarks.resi.variants import DATASET, TESTS, VARIANTS
from benchmarks.results import Study, describe, environment, table, write_results

RESULTS = Path(__file__).parent / "results"
# ReSi counts all pairs. Models of different groups that start from the same weights may be more alike than a group is.
PAIRS = ("all", "other seeds")

Matrix = Float[Tensor, "models models"]


def separated(values: Matrix, groups: list[int], starts: list[int], pairs: str, seeds: list[int]) -> Separation:
    """Return the separation of the models of some seeds."""
    places = [place for place, seed in enumerate(starts) if seed in seeds]
    own, apart = [[of[place] for place in places] for of in (groups, starts)]
    return separation(values[places][:, places], own, None if pairs == "all" else apart)


def measure(test: str, directory: Path, seeds: int) -> list[dict[str, Any]]:
    """Return a row per measure of one test and set of pairs."""
    models = [kept(directory, variant, seed) for variant in TESTS[test] for seed in range(seeds)]
    found = all_measures([one.sources for one in models], [one.compared for one in models])
    groups = [group for group in range(len(TESTS[test])) for _ in range(seeds)]
    starts = [seed for _ in TESTS[test] for seed in range(seeds)]
    rows = []
    for name, one in found.items():
        for pairs in PAIRS:
            of = partial(separated, one.values, groups, starts, pairs)
            without, error = jackknife(partial(auprc_of, of), seeds)
            row = {"test": test, "pairs": pairs, "measure": name, **of(list(range(seeds)))._asdict()}
            row |= {"error": error, "without_a_seed": without}
            rows.append(row | {"similarities": mean_similarities(one.values, groups), "seconds": one.seconds})
    return rows


def auprc_of(of: Callable[[list[int]], Separation], seeds: list[int]) -> float:
    """Return the AUPRC of the models of some seeds."""
    return of(seeds).auprc


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


def chance(seeds: int, groups: int, pairs: str = "all") -> float:
    """Return the share of a group's pairs among all that are counted: the AUPRC of random similarities."""
    within, across = seeds * (seeds - 1) / 2, seeds * (seeds - (pairs != "all")) * (groups - 1)
    return within / (within + across)


def as_markdown(result: dict[str, Any]) -> str:
    """Return AUPRC and violation rates of each measure and test, and what the groups have learned."""
    texts, seeds = result["texts"], result["seeds"]
    lines = [
        f"{seeds} classifiers per group, three groups per test, {result['dataset']} of sae-probes; trained on "
        f"{texts['trained']:,} texts, compared on {texts['compared']:,}, dictionaries of {texts['sources']:,} others. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        "AUPRC ± standard error over seeds, violation rate, and seconds of processor time for all tests.",
    ]
    for pairs in PAIRS:
        lines += ["", f"Pairs across groups: {pairs} (chance {chance(seeds, 3, pairs):.3f}):", ""]
        lines += _table([row for row in result["rows"] if row["pairs"] == pairs])
    lines += [
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


def _table(rows: list[dict[str, Any]]) -> list[str]:
    tests = list(dict.fromkeys(row["test"] for row in rows))
    lines: list[tuple[str, ...]] = []
    for name in NAMES:
        own = {row["test"]: row for row in rows if row["measure"] == name}
        cells = [
            f"{own[test]['auprc']:.3f} ± {own[test]['error']:.3f}, {own[test]['violations']:.3f}" for test in tests
        ]
        lines.append((name, *cells, f"{sum(row['seconds'] for row in own.values()):.1f}"))
    return table(["measure", *tests, "seconds"], lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
