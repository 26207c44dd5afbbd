"""One measure of all pairs of sites (hook points of models), with its resamples and the layers it matches."""

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.permuted import excess


class SiteMatrix(NamedTuple):
    """One measure of all pairs of sites, float64, and the same for every resample of the documents."""

    values: Float[Tensor, "sites sites"]
    resampled: Float[Tensor, "resamples sites sites"]
    null: Float[Tensor, "sites sites"]  # expected if the tokens of a site are permuted; nan of a site with itself
    seconds: float  # time spent on the measure

    @classmethod
    def ones(cls, sites: int, resamples: int) -> "SiteMatrix":
        """Return a matrix of ones, the value of a site with itself, to be filled in."""
        values = torch.ones(sites, sites, dtype=torch.float64)
        return cls(values, values.repeat(resamples, 1, 1), torch.full_like(values, torch.nan), 0.0)

    @classmethod
    def symmetric(
        cls, sites: int, pairs: Sequence[tuple[Tensor, Tensor]], nulls: Sequence[float], start: float
    ) -> "SiteMatrix":
        """Return a measure that took the time since ``start``; value, resamples, null of each pair i < j in order."""
        matrix = cls.ones(sites, resamples=len(pairs[0][1]))
        each = zip(itertools.combinations(range(sites), 2), pairs, nulls, strict=True)
        for (i, j), (value, resampled), null in each:
            matrix.values[i, j] = matrix.values[j, i] = value
            matrix.null[i, j] = matrix.null[j, i] = null
            matrix.resampled[:, i, j] = matrix.resampled[:, j, i] = resampled
        return matrix._replace(seconds=time.perf_counter() - start)

    @property
    def excess(self) -> Float[Tensor, "sites sites"]:
        """The values as ``measures.excess`` of their nulls; 1 of a site with itself."""
        each = zip(self.values.flatten().tolist(), self.null.flatten().tolist(), strict=True)
        matrix = torch.tensor([excess(value, null) for value, null in each], dtype=torch.float64)
        return matrix.view_as(self.values).fill_diagonal_(1.0)


def matching_accuracy(
    values: Float[Tensor, "sites sites"], sites_of_models: Sequence[range], self_pairs: bool = False
) -> float:
    """Return how often the most similar layer of another model is the same layer; nan without a pair of models.

    The share of sites i of a model whose largest value among the sites of another model is at the same place i
    (Kornblith et al. 2019; Eq. 9 of arXiv 2505.17769), over all ordered pairs of different models with equally many
    sites. Of equal values the first counts as the largest. ``self_pairs`` also pairs every model with itself, as the
    paper's formula does; those are always right. The sites of a model are consecutive.
    """
    pairs = [
        (first, second)
        for first, second in itertools.product(sites_of_models, repeat=2)
        if len(first) == len(second) and (self_pairs or first != second)
    ]
    if all(first == second for first, second in pairs):
        return float("nan")
    blocks = [values[first.start : first.stop, second.start : second.stop] for first, second in pairs]
    return float(torch.cat([block.argmax(1) == torch.arange(len(block)) for block in blocks]).double().mean())
