"""Measure which layers mutual nearest neighbours find with fewer candidates, on the same queries.

    python -m benchmarks.similarity.candidates --directory runs/layer-matching-large --dataset corpus.jsonl

All layers of the five seeds of ``benchmarks/layer_matching/train.py``: how often the same layer of another seed is
found, with errors jackknifed over models. Times are those of the processor. Writes results/candidates.json and
candidates.md.
"""

import time
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.layer_matching.accuracy import accuracy_over_models, share_within_one
from benchmarks.layer_matching.run import data_of, hook_names, models_of
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.across_models.alignment import AlignedActivations, align
from itda_lightning.across_models.compared_models import open_models
from itda_lightning.across_models.representation_comparison import RepresentationComparison
from itda_lightning.across_models.similarity_settings import ModelSettings, SimilaritySettings

RESULTS = Path(__file__).parent / "results"


def activations_of(models: list[ModelSettings], data: dict[str, Any]) -> AlignedActivations:
    """Return the held-out activations of all layers of all models."""
    opened = open_models(models, data, of_sources=False)
    for model in opened:
        model.data.prepare_data()
        model.data.release_model()
    common = align([model.data.rows("heldout") for model in opened], "tokens")
    return AlignedActivations([(model.data, model.hook_names) for model in opened], common)


def main(
    directory: Path = Path("runs/layer-matching-large"),
    dataset: str = "corpus.jsonl",
    tokens: int = 65_536,
    queries: int = 1000,
    counts: tuple[int, ...] = (65_536, 6554, 1024),
    note: str = "",
) -> None:
    """Run the benchmark and write its results.

    Args:
        directory: of the five trained models.
        dataset: whose training half they were trained on.
        tokens: that are read.
        queries: tokens whose neighbours are compared.
        counts: numbers of candidates.
        note: what else the machine did.
    """
    models, _ = models_of("trained", directory)
    activations = activations_of(models, data_of(tokens, directory / "trained", dataset))
    start, rows = time.process_time(), []
    for _ in activations.batches("Reading"):
        pass
    reading = time.process_time() - start
    for count in counts:
        settings = SimilaritySettings(
            models, str(directory), measures=["neighbours"], resamples=0, queries=queries, candidates=count
        )
        start = time.process_time()
        found, _ = RepresentationComparison(activations, settings).measure(len(models) * len(hook_names()))
        seconds, values = time.process_time() - start, found["neighbours"].values
        accuracy, error = accuracy_over_models(values, len(models))
        row = {"candidates": min(count, len(activations)), "accuracy": accuracy, "error": error}
        rows.append(row | {"within_one": share_within_one(values, len(models)), "seconds": seconds})
    study = Study("similarity/candidates", f"{len(models)} GPT-2-style", None, hook_names(), Path(dataset).name, tokens)
    result = {**describe(study), "queries": queries, "seconds_of_reading": reading, "note": note, "rows": rows}
    write_results(RESULTS, "candidates", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the layers that are found with each number of candidates."""
    rows = (
        (
            f"{row['candidates']:,}",
            f"{row['accuracy']:.3f} ± {row['error']:.3f}",
            f"{row['within_one']:.3f}",
            f"{row['seconds']:.1f}",
        )
        for row in result["rows"]
    )
    lines = [
        f"{result['model']}, {result['tokens']:,} tokens of {result['dataset']}, {result['queries']:,} queries. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        "Layers of another seed that are found, ± standard error over models, and seconds of processor time, of which "
        f"{result['seconds_of_reading']:.1f} are reading:",
        "",
        *table(["candidates", "accuracy", "same or next layer", "seconds"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
