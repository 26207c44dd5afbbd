"""Measure which measures fall with the distance of layers within a model: ReSi's layer monotonicity.

    python -m benchmarks.resi.layers --directory runs/layer-matching-large --dataset corpus.jsonl [--only seeds]

The bundled model, eight of its layers, and the five seeds of ``benchmarks/layer_matching/train.py``, all eight layers
each, on tokens of documents that were not trained on; dictionaries are of as many tokens of others. Errors are
jackknifed over seeds. Writes results/layers.json and layers.md; a test that is there is not measured again.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.bundled import DATASET, MODEL, bundled_data
from benchmarks.layer_matching.choices import Activations, by_layer
from benchmarks.layer_matching.run import models_of
from benchmarks.resi.matrices import NAMES, Measured, all_measures
from benchmarks.resi.scores import conformity, correlation_with_distance, error_of
from benchmarks.results import Study, describe, environment, table, write_results

RESULTS = Path(__file__).parent / "results"
TESTS = ("bundled", "seeds")
HOOK_NAMES = [f"blocks.{layer}.hook_resid_post" for layer in (0, 4, 8, 12, 16, 20, 24, 29)]


def of_bundled(tokens: int, cache_dir: str, seed: int) -> list[dict[str, Measured]]:
    """Return the measures between layers of the bundled model."""
    data = bundled_data(HOOK_NAMES, tokens, tokens, cache_dir, seed)
    data.setup("fit")
    sides = [by_layer(data, loader) for loader in (data.train_dataloader(), data.val_dataloader())]
    return [all_measures(*sides)]


def of_seeds(tokens: int, directory: Path, dataset: str) -> list[dict[str, Measured]]:
    """Return the measures between layers of each of the five seeds."""
    models, _ = models_of("trained", directory)
    activations = Activations(models, tokens, directory / "trained", dataset, tokens)
    return [all_measures(activations.training(model), activations.held_out(model)) for model in range(len(models))]


def rows_of(test: str, models: list[dict[str, Measured]]) -> list[dict[str, Any]]:
    """Return a row per measure: its scores, mean over models."""
    rows = []
    for name in NAMES:
        own = [one[name] for one in models]
        conform = [conformity(one.values) for one in own]
        correlations = [correlation_with_distance(one.values) for one in own]
        without = [statistics.mean(conform[:i] + conform[i + 1 :]) for i in range(len(own))] if len(own) > 1 else []
        rows.append(
            {
                "test": test,
                "measure": name,
                "conformity": statistics.mean(conform),
                "correlation": statistics.mean(correlations),
                "error": error_of(without) if without else None,
                "without_a_seed": without,
                "seconds": sum(one.seconds for one in own),
            }
        )
    return rows


def main(
    directory: Path = Path("runs/layer-matching-large"),
    dataset: str = "corpus.jsonl",
    tokens: int = 4096,
    only: list[str] | None = None,
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
    note: str = "",
) -> None:
    """Measure the missing tests.

    Args:
        directory: of the five models and their activations.
        dataset: whose training half these models were trained on.
        tokens: that are compared, and as many others that dictionaries are grown from.
        only: tests that are measured (again).
        cache_dir: of the bundled model's activations.
        seed: of the bundled model's data.
        note: what else the machine did.
    """
    path = RESULTS / "layers.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for test in only or [test for test in TESTS if test not in {row["test"] for row in rows}]:
        models = of_bundled(tokens, cache_dir, seed) if test == "bundled" else of_seeds(tokens, directory, dataset)
        rows = [row for row in rows if row["test"] != test] + rows_of(test, models)
        data = f"{DATASET} (bundled), {Path(dataset).name} (seeds)"
        study = Study("resi/layers", f"{MODEL}, five GPT-2-style", dataset=data, tokens=tokens, seed=seed)
        result = {**describe(study), "hook_names": HOOK_NAMES, "note": note, "rows": rows}
        write_results(RESULTS, "layers", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return conformity and correlation of each measure and test."""
    tests = list(dict.fromkeys(row["test"] for row in result["rows"]))
    by_name = {(row["test"], row["measure"]): row for row in result["rows"]}
    lines = [
        f"{result['model']}; {result['tokens']:,} tokens of {result['dataset']}. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        "Share of triples of layers in whose order similarity falls (± standard error over seeds), and minus "
        "Spearman's correlation of similarity with distance:",
        "",
        *table(["measure", *tests], ((name, *(cell(by_name[test, name]) for test in tests)) for name in NAMES)),
    ]
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any]) -> str:
    """Return the scores of one measure in one test."""
    error = "" if row["error"] is None else f" ± {row['error']:.3f}"
    correlation = "none" if row["correlation"] is None else f"{row['correlation']:.3f}"
    return f"{row['conformity']:.3f}{error}, {correlation}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
