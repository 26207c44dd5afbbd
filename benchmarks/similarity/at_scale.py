"""Measure what mutual nearest neighbours take of 40 layers at 1,000,000 tokens.

    python -m benchmarks.similarity.at_scale [--note "what else the machine did"]

The comparison of the package itself, with its default number of candidates. Activations are made when they are read,
from two small tables, as 40 layers of a million tokens would take 20 GB; the time of making them is taken off. A search
among all tokens is measured on fewer layers; its time grows with their number. Times are those of the processor, as the
machine does other work. Writes results/at_scale.json and at_scale.md.
"""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.across_models.alignment import AlignedActivations
from itda_lightning.across_models.representation_comparison import RepresentationComparison
from itda_lightning.across_models.similarity_settings import ModelSettings, SimilaritySettings

RESULTS = Path(__file__).parent / "results"
TABLE = 1024  # rows of either table: their sums are up to a million different tokens


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

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """Return the activations of every site at some of the tokens."""
        start = time.process_time()
        shared = self.tables[0, index % TABLE] + self.tables[1, index // TABLE]
        parts = [shared @ one for one in self.maps]
        self.seconds += time.process_time() - start
        return parts


def cost(layers: int, tokens: int, d: int, queries: int, candidates: int) -> dict[str, Any]:
    """Return the seconds of processor time of one comparison."""
    settings = SimilaritySettings(
        [ModelSettings("sites", model="-", hook_names=["-"])],
        directory="-",
        measures=["neighbours"],
        resamples=0,
        queries=queries,
        candidates=candidates,
    )
    activations = MadeActivations(layers, tokens, d)
    start = time.process_time()
    RepresentationComparison(activations, settings).measure(layers)
    whole = time.process_time() - start
    row = {"layers": layers, "tokens": tokens, "d": d, "queries": queries, "candidates": candidates}
    return row | {"seconds": whole - activations.seconds, "seconds_of_making": activations.seconds}


def main(
    layers: int = 40,
    tokens: int = 1_000_000,
    d: int = 128,
    queries: int = 1000,
    candidates: int = 100_000,
    layers_of_all: int = 2,
    note: str = "",
) -> None:
    """Run the benchmark and write its results.

    Args:
        layers, tokens, d: of the activations.
        queries: tokens whose neighbours are compared.
        candidates: tokens among which they are searched; the default of the package.
        layers_of_all: layers on which a search among all tokens is timed, beside one among the candidates.
        note: what else the machine did.
    """
    few = [cost(layers_of_all, tokens, d, queries, count) for count in (candidates, tokens)]
    rows = [cost(layers, tokens, d, queries, candidates), *few]
    study = Study("similarity/at_scale", dataset="made activations", tokens=tokens, seed=0)
    result = {**describe(study), "note": note, "rows": rows}
    write_results(RESULTS, "at_scale", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the seconds of each search."""
    head = ["layers", "tokens", "dimensions", "queries", "candidates", "seconds", "seconds of making activations"]
    rows = (
        (
            *(f"{row[name]:,}" for name in ("layers", "tokens", "d", "queries", "candidates")),
            f"{row['seconds']:,.1f}",
            f"{row['seconds_of_making']:,.1f}",
        )
        for row in result["rows"]
    )
    lines = [
        f"{environment(result)} {result['note']}".strip(),
        "",
        "Processor time of a comparison by mutual nearest neighbours, without that of making the activations:",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
