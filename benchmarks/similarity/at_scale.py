"""Measure what mutual nearest neighbours take of 40 layers at 1,000,000 tokens, and which layers fewer candidates find.

    python -m benchmarks.similarity.at_scale [--only [cost]] [--note "what else the machine did"]
    python -m benchmarks.similarity.at_scale --only [accuracy] --directory MODELS --dataset corpus.jsonl

Cost: the comparison of the package itself, with the default number of candidates and others. Activations are made when
they are read, from two small tables, as 40 layers of so many tokens would take 20 GB; the time of making them is taken
off. A search among all tokens is measured on fewer layers; its time grows with their number. Times are those of the
processor, as the machine does other work.

Accuracy: how often the same layer of another seed is found on the same queries with fewer candidates; errors are
jackknifed over models. Writes results/at_scale.json and at_scale.md; what is there is not measured again.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.layer_matching.accuracy import accuracy_over_models, share_within_one
from benchmarks.layer_matching.run import data_of, models_of
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.across_models.alignment import BATCH, AlignedActivations, align
from itda_lightning.across_models.compared_models import open_models
from itda_lightning.across_models.representation_comparison import RepresentationComparison
from itda_lightning.across_models.similarity_settings import ModelSettings, SimilaritySettings

RESULTS = Path(__file__).parent / "results"
TABLE = 1024  # rows of either table: their sums are up to a million different tokens
PARTS = ("cost", "accuracy")


class MadeActivations(AlignedActivations):
    """Activations that are made when they are read: of token t a row of one table and one of another, rotated by site.

    Attributes:
        seconds: that making them took so far.
    """

    def __init__(self, sites: int, tokens: int, d: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tables = torch.randn(2, TABLE, d, generator=generator)
        self.maps = torch.randn(sites, d, d, generator=generator) / d**0.5
        self.documents, self.left_out, self.seconds = torch.arange(tokens), 0, 0.0

    def batches(self, description: str) -> Iterator[tuple[Int[Tensor, " batch"], list[Float[Tensor, "batch _"]]]]:  # noqa: ARG002
        """Yield indices of tokens with their activations."""
        for index in self.documents.split(BATCH):
            yield index, self.at(index)

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """Return the activations of every site at some of the tokens."""
        start = time.process_time()
        shared = self.tables[0, index % TABLE] + self.tables[1, index // TABLE]
        parts = [shared @ one for one in self.maps]
        self.seconds += time.process_time() - start
        return parts


def settings_of(candidates: int, queries: int, models: list[ModelSettings] | None = None) -> SimilaritySettings:
    """Return the settings of a comparison by neighbours only."""
    models = models or [ModelSettings("sites", model="-", hook_names=["-"])]
    return SimilaritySettings(
        models, directory="-", measures=["neighbours"], resamples=0, queries=queries, candidates=candidates
    )


def cost(layers: int, tokens: int, d: int, queries: int, candidates: int) -> dict[str, Any]:
    """Return the seconds of processor time of one comparison."""
    activations = MadeActivations(layers, tokens, d)
    start = time.process_time()
    RepresentationComparison(activations, settings_of(candidates, queries)).measure(layers)
    whole = time.process_time() - start
    row = {"layers": layers, "tokens": tokens, "d": d, "queries": queries, "candidates": candidates}
    return row | {"seconds": whole - activations.seconds, "seconds_of_making": activations.seconds}


def accuracies(
    directory: Path, dataset: str, tokens: int, queries: int, counts: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return how often layers are found with each number of candidates, and the seconds of reading and searching."""
    models, _ = models_of("trained", directory)
    opened = open_models(models, data_of(tokens, directory / "trained", dataset), of_sources=False)
    for model in opened:
        model.data.prepare_data()
        model.data.release_model()
    common = align([model.data.rows("heldout") for model in opened], "tokens")
    activations = AlignedActivations([(model.data, model.hook_names) for model in opened], common)
    sites = sum(len(model.hook_names) for model in opened)
    rows = []
    for count in counts:
        found, _ = RepresentationComparison(activations, settings_of(count, queries)).measure(sites)
        accuracy, error = accuracy_over_models(found["neighbours"].values, len(models))
        rows.append({"candidates": min(count, len(activations)), "accuracy": accuracy, "error": error})
        rows[-1]["within_one"] = share_within_one(found["neighbours"].values, len(models))
        rows[-1] |= {"tokens": len(activations), "seconds": found["neighbours"].seconds}
    return rows


def main(
    layers: int = 40,
    tokens: int = 1_000_000,
    d: int = 128,
    queries: int = 1000,
    candidates: tuple[int, ...] = (100_000,),
    layers_of_all: int = 2,
    directory: Path = Path("runs/layer-matching-large"),
    dataset: str = "corpus.jsonl",
    compared_tokens: int = 65_536,
    counts: tuple[int, ...] = (65_536, 6554, 1024),
    only: list[str] | None = None,
    note: str = "",
) -> None:
    """Measure the missing parts.

    Args:
        layers, tokens, d: of the activations whose comparison is timed.
        queries: tokens whose neighbours are compared.
        candidates: numbers of tokens among which they are searched, the default of the package first.
        layers_of_all: layers on which a search among all tokens is timed, beside the default one.
        directory: of the five trained models.
        dataset: whose training half they were trained on.
        compared_tokens: of the accuracy.
        counts: numbers of candidates of the accuracy.
        only: parts that are measured (again): cost, accuracy.
        note: what else the machine did.
    """
    path = RESULTS / "at_scale.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    parts = {part: known[part] for part in PARTS if part in known}
    for part in only or [part for part in PARTS if part not in parts]:
        if part == "cost":
            few = [cost(layers_of_all, tokens, d, queries, count) for count in (candidates[0], tokens)]
            parts[part] = [*(cost(layers, tokens, d, queries, count) for count in candidates), *few]
        else:
            parts[part] = accuracies(directory, dataset, compared_tokens, queries, counts)
        study = Study("similarity/at_scale", dataset=f"made activations; {Path(dataset).name}", tokens=tokens, seed=0)
        result = {**describe(study), "note": note, **parts}
        write_results(RESULTS, "at_scale", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the seconds of each search, and the layers that are found with fewer candidates."""
    costs = (
        (
            *(f"{row[name]:,}" for name in ("layers", "tokens", "d", "queries", "candidates")),
            f"{row['seconds']:,.1f}",
            f"{row['seconds_of_making']:,.1f}",
        )
        for row in result.get("cost", [])
    )
    found = (
        (
            f"{row['candidates']:,}",
            f"{row['accuracy']:.3f} ± {row['error']:.3f}",
            f"{row['within_one']:.3f}",
            f"{row['seconds']:.1f}",
        )
        for row in result.get("accuracy", [])
    )
    head = ["layers", "tokens", "dimensions", "queries", "candidates", "seconds", "seconds of making activations"]
    lines = [
        f"{environment(result)} {result['note']}".strip(),
        "",
        "Processor time of a comparison by mutual nearest neighbours, without that of making the activations:",
        "",
        *table(head, costs),
        "",
        "Layers of another seed that are found, ± standard error over models, and seconds with reading:",
        "",
        *table(["candidates", "accuracy", "same or next layer", "seconds"], found),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
