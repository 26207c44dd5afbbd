"""Measure which measures fall with the distance of layers within a model: ReSi's layer monotonicity.

    python -m benchmarks.resi.layers --directory runs/layer-matching-large --dataset corpus.jsonl [--only seeds]

The bundled model, eight of its layers, and the five seeds of ``benchmarks/layer_matching/train.py``, all eight layers
each, on tokens of documents that were not trained on; dictionaries are of as many tokens of others. Errors are
jackknifed over seeds. Writes results/layers_TEST.json and .md; a test that is there is not measured again.
"""

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.bundled import DATASET, MODEL, bundled_data
from benchmarks.layer_matching.choices import Activations, by_layer
from benchmarks.layer_matching.run import compare_at, hook_names, models_of
from benchmarks.resi.matrices import GROWTHS, NAMES, all_measures, of_sources
from benchmarks.resi.scores import conformity, correlation_with_distance, jackknife
from benchmarks.results import Study, describe, environment, table, write_results

RESULTS = Path(__file__).parent / "results"
TESTS = ("bundled", "seeds")
HOOK_NAMES = [f"blocks.{layer}.hook_resid_post" for layer in (0, 4, 8, 12, 16, 20, 24, 29)]

Matrices = dict[str, Float[Tensor, "layers layers"]]  # by the name of the measure


def of_bundled(tokens: int, cache_dir: str, seed: int) -> list[Matrices]:
    """Return the measures between layers of the bundled model."""
    data = bundled_data(HOOK_NAMES, tokens, tokens, cache_dir, seed)
    data.setup("fit")
    sides = [by_layer(data, loader) for loader in (data.train_dataloader(), data.val_dataloader())]
    return [{name: one.values for name, one in all_measures(*sides).items()}]


def of_seeds(tokens: int, directory: Path, dataset: str) -> list[Matrices]:
    """Return the measures between layers of each of the five seeds, from the comparison of all their layers.

    That comparison (``benchmarks/layer_matching/run.py``) has dictionaries of sequential growth; the others are grown.
    """
    settings, _ = models_of("trained", directory)
    models, layers = len(settings), len(settings[0].hook_names)
    results = compare_at(settings, tokens, directory / "trained", 1, dataset)
    whole = {one.measure: torch.tensor(one.values, dtype=torch.float64) for one in results.measured}
    activations = Activations(settings, tokens, directory / "trained", dataset, tokens)
    sources, compared = (
        [x for model in range(models) for x in of(model)] for of in (activations.training, activations.held_out)
    )
    order_free = {suffix: growth for suffix, growth in GROWTHS.items() if suffix}
    whole |= {name: one.values for name, one in of_sources(sources, compared, order_free, layers).items()}
    blocks = [slice(model * layers, (model + 1) * layers) for model in range(models)]
    return [{name: whole[name][block, block] for name in NAMES} for block in blocks]


def mean_of(values: list[float], kept: list[int]) -> float:
    """Return the mean of some of the values."""
    return statistics.fmean(values[place] for place in kept)


def rows_of(test: str, models: list[Matrices]) -> list[dict[str, Any]]:
    """Return a row per measure: its scores, mean over models."""
    rows = []
    for name in NAMES:
        conform = [conformity(one[name]) for one in models]
        correlations = [correlation_with_distance(one[name]) for one in models]
        without: list[float] = []
        error = None
        if len(models) > 1:
            without, error = jackknife(partial(mean_of, conform), len(models))
        rows.append(
            {
                "test": test,
                "measure": name,
                "conformity": statistics.mean(conform),
                "correlation": statistics.mean(correlations),
                "error": error,
                "without_a_seed": without,
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
    for test in only or [test for test in TESTS if not (RESULTS / f"layers_{test}.json").exists()]:
        bundled = test == "bundled"
        models = of_bundled(tokens, cache_dir, seed) if bundled else of_seeds(tokens, directory, dataset)
        study = Study(
            "resi/layers",
            model=MODEL if bundled else f"{len(models)} GPT-2-style",
            hook_name=HOOK_NAMES if bundled else hook_names(),
            dataset=DATASET if bundled else Path(dataset).name,
            tokens=tokens,
            seed=seed,
        )
        result = {**describe(study), "note": note, "rows": rows_of(test, models)}
        write_results(RESULTS, f"layers_{test}", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return conformity and correlation of each measure."""
    lines = [
        f"{result['model']}, {len(result['hook_name'])} layers; {result['tokens']:,} tokens of {result['dataset']}. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        "Share of triples of layers in whose order similarity falls (± standard error over seeds), and minus "
        "Spearman's correlation of similarity with distance:",
        "",
        *table(
            ["measure", "conformity", "correlation"],
            ((row["measure"], conformity_of(row), correlation_of(row)) for row in result["rows"]),
        ),
    ]
    return "\n".join(lines) + "\n"


def conformity_of(row: dict[str, Any]) -> str:
    """Return the conformity with its error, if it has one."""
    return f"{row['conformity']:.3f}" + ("" if row["error"] is None else f" ± {row['error']:.3f}")


def correlation_of(row: dict[str, Any]) -> str:
    """Return the correlation, if there is one."""
    return "none" if row["correlation"] is None else f"{row['correlation']:.3f}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
