"""One measure of all pairs of sites (hook points of models), with its resamples and the layers it matches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class SiteMatrix(NamedTuple):
    """One measure of all pairs of sites.

    Attributes:
        values: (sites, sites) float64.
        resampled: (resamples, sites, sites) float64, the same for every resample of the documents.
        seconds: time spent on the measure.
    """

    values: Float[Tensor, "sites sites"]
    resampled: Float[Tensor, "resamples sites sites"]
    seconds: float

    @classmethod
    def ones(cls, sites: int, resamples: int) -> "SiteMatrix":
        """Return a matrix of ones, the value of a site with itself, to be filled in."""
        values = torch.ones(sites, sites, dtype=torch.float64)
        return cls(values, values.repeat(resamples, 1, 1), 0.0)

    def put(self, i: int, j: int, values: Float[Tensor, ""], resampled: Float[Tensor, " resamples"]) -> None:
        """Fill in a symmetric measure of one pair."""
        for a, b in ((i, j), (j, i)):
            self.values[a, b] = values
            self.resampled[:, a, b] = resampled


def matching_accuracy(
    values: Float[Tensor, "sites sites"], sites_of_models: Sequence[range], self_pairs: bool = False
) -> float:
    """Return how often the most similar layer of another model is the same layer.

    The share of sites i of a model whose largest value among the sites of another model is at the same place i
    (Kornblith et al. 2019; Eq. 9 of arXiv 2505.17769), over all ordered pairs of different models with equally many
    sites. Of equal values the first counts as the largest.

    Args:
        values: row i compares site i with all sites.
        sites_of_models: consecutive sites of each model.
        self_pairs: also pair every model with itself, as the paper's formula does; those are always right.

    Returns:
        nan if no two different models have equally many sites.
    """
    right, different = [], False
    for a, first in enumerate(sites_of_models):
        for b, second in enumerate(sites_of_models):
            if len(first) != len(second) or (a == b and not self_pairs):
                continue
            different |= a != b
            block = values[first.start : first.stop, second.start : second.stop]
            right.append(block.argmax(1) == torch.arange(len(first)))
    return float(torch.cat(right).double().mean()) if different else float("nan")
