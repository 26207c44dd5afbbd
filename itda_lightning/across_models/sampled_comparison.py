"""Measures of all pairs of tokens, and of tokens after a rotation, of a sample of tokens that all sites share."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.across_models.site_matrix import SiteMatrix
from itda_lightning.comparison.bootstrap import DocumentGroups
from itda_lightning.measures.aligned_cosine import aligned_cosine_null, aligned_cosines
from itda_lightning.measures.distance_correlation import correlation, distance_correlation_null, distance_covariance
from itda_lightning.measures.distances import distances
from itda_lightning.measures.rsa import centred_ranks, rank_correlation
from itda_lightning.measures.second_order import Neighbourhood, second_order_cosines, second_order_null


class SampledMeasure(NamedTuple):
    """A measure of the rows of a sample of n tokens at two sites."""

    prepare: Callable[[Tensor, int], Any]  # from the rows of one site, (n, d), and the number of nearest neighbours
    compare: Callable[[Any, Any, Tensor], Tensor]  # two sites so prepared, (draws, n) times of each token -> (draws,)
    null: Callable[[Any, Any], float]  # what is expected if the rows of one site are permuted


def _distance_correlation(
    a: Float[Tensor, "n n"], b: Float[Tensor, "n n"], times: Float[Tensor, "draws n"]
) -> Float[Tensor, " draws"]:
    return correlation(*(distance_covariance(*pair, times) for pair in ((a, b), (a, a), (b, b))))


def _second_order(x: Neighbourhood, y: Neighbourhood, times: Float[Tensor, "draws n"]) -> Float[Tensor, " draws"]:
    return times @ second_order_cosines(x, y) / times.sum(1)


def _aligned(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "n d2"], times: Float[Tensor, "draws n"]
) -> Float[Tensor, " draws"]:
    """Return the mean cosine of each draw, after the rotation that is best for the sample itself."""
    return times @ aligned_cosines(x, y) / times.sum(1)


SAMPLED = {
    "distance_correlation": SampledMeasure(lambda x, _: distances(x), _distance_correlation, distance_correlation_null),
    # The mean correlation over all permutations is 0, as every pair of tokens becomes every other equally often.
    "rsa": SampledMeasure(lambda x, _: centred_ranks(distances(x)), rank_correlation, lambda *_: 0.0),
    "second_order_cosine": SampledMeasure(Neighbourhood.of, _second_order, second_order_null),
    "aligned_cosine": SampledMeasure(lambda x, _: x.double(), _aligned, aligned_cosine_null),
}


def measure_sample(
    measure: SampledMeasure,
    rows: Sequence[Float[Tensor, "n _"]],
    group: Int[Tensor, " n"],
    groups: DocumentGroups,
    k: int,
) -> SiteMatrix:
    """Return a measure of all pairs of sites; ``rows`` are those of each site, ``group`` that of each token.

    Holds what is prepared of all sites at once: at most 8 n^2 bytes and n k indices of each.
    """
    start = time.perf_counter()
    once = torch.ones(1, groups.n_groups, dtype=torch.int64)
    drawn = torch.cat([once, groups.times]) if groups.resamples else once
    times = drawn[:, group].double()
    sides = [measure.prepare(x, k) for x in rows]
    pairs, nulls = [], []
    for one, other in itertools.combinations(sides, 2):
        values = measure.compare(one, other, times)
        pairs.append((values[0], values[1:]))
        nulls.append(measure.null(one, other))
    return SiteMatrix.symmetric(len(sides), pairs, nulls, start)
