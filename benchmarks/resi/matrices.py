"""Every measure of the package between all pairs of representations of the same rows, held in memory."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.layer_matching.choices import Choice, grow, indices, threshold_for, uses, weighted_indices
from itda_lightning.across_models.alignment import BATCH, AlignedActivations
from itda_lightning.across_models.representation_comparison import RepresentationComparison
from itda_lightning.across_models.similarity_settings import MEASURES, OF_SOURCES, ModelSettings, SimilaritySettings

SPARSITY, SHARE_OF_ATOMS, EXPONENT, WINDOW = 16, 1 / 8, 0.85, 1024
GROWTHS = {"": "sequential", ", order-free": "worst_first"}
OF_ACTIVATIONS = tuple(measure for measure in MEASURES if measure not in OF_SOURCES)
NAMES = (*(f"{name}{suffix}" for suffix in GROWTHS for name in OF_SOURCES), *OF_ACTIVATIONS)

Sites = Sequence[Float[Tensor, "rows d"]]


class Measured(NamedTuple):
    """One measure of all pairs of sites, and the seconds that it took."""

    values: Float[Tensor, "sites sites"]
    seconds: float


class HeldActivations(AlignedActivations):
    """Activations of several sites at the same rows, in memory; each row is a document of its own."""

    def __init__(self, sites: Sites) -> None:
        self._sites, self.left_out = list(sites), 0
        self.documents = torch.arange(len(sites[0]))

    def batches(self, description: str) -> Iterator[tuple[Int[Tensor, " batch"], list[Float[Tensor, "batch _"]]]]:  # noqa: ARG002
        """Yield indices of rows with their activations."""
        for index in self.documents.split(BATCH):
            yield index, self.at(index)

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """Return the activations of every site at some of the rows."""
        return [site[index] for site in self._sites]


def of_activations(sites: Sites) -> dict[str, Measured]:
    """Return every measure of activations of all pairs of sites."""
    rows = len(sites[0])
    settings = SimilaritySettings(
        [ModelSettings("sites", model="-", hook_names=["-"])],
        directory="-",
        measures=list(OF_ACTIVATIONS),
        resamples=0,
        anchors=min(300, rows // 4),
        queries=min(1000, rows // 2),
        sample=min(1000, rows),
    )
    found, _ = RepresentationComparison(HeldActivations(sites), settings).measure(len(sites))
    return {name: Measured(found[name].values, found[name].seconds) for name in OF_ACTIVATIONS}


def of_sources(sources: Sites, compared: Sites) -> dict[str, Measured]:
    """Return the Jaccard indices of dictionaries of all sites, plain and by use, grown sequentially and order-free.

    Dictionaries are grown on ``sources``, the same rows of each site, and cropped to the size of the smallest; uses are
    counted on ``compared``. Order-free growth takes the worst explained of all rows first.
    """
    found: dict[str, Measured] = {}
    means = [site.mean(0) for site in sources]
    centred = [site - mean for site, mean in zip(sources, means, strict=True)]
    rows = len(sources[0])
    for suffix, growth in GROWTHS.items():
        start = time.perf_counter()
        window = rows if growth == "worst_first" else WINDOW
        choice = Choice(rows, int(rows * SHARE_OF_ATOMS), SPARSITY, growth, window, exponent=EXPONENT)
        grown = [torch.tensor(grow(x, choice, threshold_for(x, choice))) for x in centred]
        n = min(choice.atoms, *map(len, grown))
        grown = [atoms[:n] for atoms in grown]
        found[f"jaccard{suffix}"] = Measured(indices(grown, grown, n), time.perf_counter() - start)
        weights = [
            uses(held_out - mean, x[atoms], SPARSITY)
            for held_out, mean, x, atoms in zip(compared, means, centred, grown, strict=True)
        ]
        by_use = weighted_indices(grown, weights)
        found[f"weighted_jaccard{suffix}"] = Measured(by_use, time.perf_counter() - start)
    return found


def all_measures(sources: Sites, compared: Sites) -> dict[str, Measured]:
    """Return every measure of all pairs of sites, in the order of ``NAMES``; see ``of_sources``."""
    found = of_sources(sources, compared) | of_activations(compared)
    return {name: found[name] for name in NAMES}
