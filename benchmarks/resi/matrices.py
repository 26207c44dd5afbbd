"""Every measure of the package between all pairs of representations of the same rows, held in memory."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.layer_matching.choices import Choice, grow, indices, threshold_for, uses, weighted_indices
from itda_lightning.across_models.alignment import AlignedActivations
from itda_lightning.across_models.permuted_pairs import NOT_SYMMETRIC
from itda_lightning.across_models.representation_comparison import OF_MOMENTS, RepresentationComparison
from itda_lightning.across_models.similarity_settings import MEASURES, OF_SOURCES, ModelSettings, SimilaritySettings
from itda_lightning.measures import Moments

SPARSITY, SHARE_OF_ATOMS, EXPONENT, WINDOW = 16, 1 / 8, 0.85, 1024
GROWTHS = {"": "sequential", ", order-free": "worst_first"}
OF_ACTIVATIONS = tuple(measure for measure in MEASURES if measure not in OF_SOURCES)
NAMES = (*(f"{name}{suffix}" for suffix in GROWTHS for name in OF_SOURCES), *OF_ACTIVATIONS)

Sites = Sequence[Float[Tensor, "rows d"]]


class Measured(NamedTuple):
    """One measure of all pairs of sites, and the seconds of processor time that it took."""

    values: Float[Tensor, "sites sites"]
    seconds: float


class HeldActivations(AlignedActivations):
    """Activations of several sites at the same rows, in memory; each row is a document of its own."""

    def __init__(self, sites: Sites) -> None:
        self._sites, self.left_out = list(sites), 0
        self.documents = torch.arange(len(sites[0]))

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """Return the activations of every site at some of the rows."""
        return [site[index] for site in self._sites]


def of_moments(sites: Sites) -> dict[str, Measured]:
    """Return every measure of moments of all pairs of sites."""
    pairs = list(itertools.combinations(range(len(sites)), 2))
    sums = Moments(pairs)
    sums.update(*sites)
    found = {}
    for name, measure in OF_MOMENTS.items():
        start, values = time.process_time(), torch.eye(len(sites), dtype=torch.float64)
        for i, j in pairs:
            moments = sums.compute(i, j)
            values[i, j] = measure(moments)
            values[j, i] = measure(moments.swapped) if name in NOT_SYMMETRIC else values[i, j]
        found[name] = Measured(values, time.process_time() - start)
    return found


def of_rows(sites: Sites) -> dict[str, Measured]:
    """Return every other measure of activations of all pairs of sites."""
    rows, found = len(sites[0]), {}
    for name in (name for name in OF_ACTIVATIONS if name not in OF_MOMENTS):
        settings = SimilaritySettings(
            [ModelSettings("sites", model="-", hook_names=["-"])],
            directory="-",
            measures=[name],
            resamples=0,
            anchors=min(300, rows // 4),
            queries=min(1000, rows // 2),
            sample=min(1000, rows),
        )
        start = time.process_time()
        matrices, _ = RepresentationComparison(HeldActivations(sites), settings).measure(len(sites))
        found[name] = Measured(matrices[name].values, time.process_time() - start)
    return found


def of_sources(
    sources: Sites, compared: Sites, growths: Mapping[str, str] = GROWTHS, layers: int | None = None
) -> dict[str, Measured]:
    """Return the Jaccard indices of dictionaries of all sites, plain and by use.

    Dictionaries are cropped to the size of the smallest, and uses counted on ``compared``.

    Args:
        sources: activations that dictionaries are grown from, the same rows of each site.
        compared: activations of other rows.
        growths: policies by the ending of the measure's name. Order-free growth takes the worst of all rows first.
        layers: number of sites, one per layer, on which thresholds are found; other models use that of the same layer.
            By default each site has its own.
    """
    found: dict[str, Measured] = {}
    means = [site.mean(0) for site in sources]
    centred = [site - mean for site, mean in zip(sources, means, strict=True)]
    rows = len(sources[0])
    for suffix, growth in growths.items():
        start = time.process_time()
        window = rows if growth == "worst_first" else WINDOW
        choice = Choice(rows, int(rows * SHARE_OF_ATOMS), SPARSITY, growth, window, exponent=EXPONENT)
        thresholds = [threshold_for(x, choice) for x in centred[:layers]]
        grown = [torch.tensor(grow(x, choice, thresholds[site % len(thresholds)])) for site, x in enumerate(centred)]
        n = min(choice.atoms, *map(len, grown))
        grown = [atoms[:n] for atoms in grown]
        found[f"jaccard{suffix}"] = Measured(indices(grown, grown, n), time.process_time() - start)
        weights = [
            uses(held_out - mean, x[atoms], SPARSITY)
            for held_out, mean, x, atoms in zip(compared, means, centred, grown, strict=True)
        ]
        by_use = weighted_indices(grown, weights)
        found[f"weighted_jaccard{suffix}"] = Measured(by_use, time.process_time() - start)
    return found


def all_measures(sources: Sites, compared: Sites) -> dict[str, Measured]:
    """Return every measure of all pairs of sites, in the order of ``NAMES``; see ``of_sources``."""
    found = of_sources(sources, compared) | of_moments(compared) | of_rows(compared)
    return {name: found[name] for name in NAMES}
