"""Score a measure as ReSi does (Klabunde et al. 2025, arXiv 2408.00531): by layers of a model and groups of models."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score
from torch import Tensor


def conformity(values: Float[Tensor, "layers layers"]) -> float:
    """Return the share of layers i, j, k in order, from either end, with values[i, j] >= values[i, k]."""
    layers = len(values)
    ordered = itertools.combinations(range(layers), 3)
    triples = [one for i, j, k in ordered for one in ((i, j, k), (k, j, i))]
    return sum(bool(values[i, j] >= values[i, k]) for i, j, k in triples) / len(triples)


def correlation_with_distance(values: Float[Tensor, "layers layers"]) -> float:
    """Return by how much similarity falls with distance: minus Spearman's correlation from each layer, averaged.

    A layer counts once with the layers above it and once with those below, if these are at least two. Of equal values
    there is no correlation; they are left out.
    """
    layers = len(values)
    sides = [values[i, i + 1 :] for i in range(layers - 2)] + [values[i, :i].flip(0) for i in range(2, layers)]
    differing = [side.numpy() for side in sides if bool((side != side[0]).any())]
    if not differing:
        return float("nan")
    return float(np.mean([-spearmanr(side, np.arange(len(side))).statistic for side in differing]))


class Separation(NamedTuple):
    """The separation of groups of models by a measure, mean over groups.

    Attributes:
        auprc: area under the precision-recall curve of "a pair is within the group", by similarity, of all pairs with
            a model of the group; 1 is best.
        violations: share of pairs within the group and pairs across of which the one within is not more similar.
    """

    auprc: float
    violations: float


def separation(
    values: Float[Tensor, "models models"], groups: Sequence[int], starts: Sequence[int] | None = None
) -> Separation:
    """Return the separation of groups by a measure of all pairs of models.

    Args:
        values: similarities; both of a pair count.
        groups: the group of each model.
        starts: what each model was trained from; pairs across groups with the same start are left out.
    """
    of, counted = torch.tensor(groups), ~torch.eye(len(groups), dtype=torch.bool)
    if starts is not None:
        counted &= torch.tensor(starts)[:, None] != torch.tensor(starts)
    auprc, violations = [], []
    for group in of.unique():
        rows = of == group
        within, across = values[rows[:, None] & rows & counted], values[(rows[:, None] ^ rows) & counted]
        labels = torch.cat([torch.ones_like(within), torch.zeros_like(across)])
        auprc.append(average_precision_score(labels.numpy(), torch.cat([within, across]).numpy()))
        violations.append(float((within[:, None] <= across).double().mean()))
    return Separation(float(np.mean(auprc)), float(np.mean(violations)))


def mean_similarities(values: Float[Tensor, "models models"], groups: Sequence[int]) -> list[list[float]]:
    """Return the mean similarity of two different models of each group and each other or the same group."""
    of = torch.tensor(groups)
    different = ~torch.eye(len(of), dtype=torch.bool)
    return [
        [float(values[(of == one)[:, None] & (of == other) & different].mean()) for other in of.unique()]
        for one in of.unique()
    ]


def jackknife(of: Callable[[list[int]], float], units: int) -> tuple[list[float], float]:
    """Return what a statistic is without each of the units (seeds), and its standard error (Tukey 1958)."""
    without = [of([unit for unit in range(units) if unit != left]) for left in range(units)]
    return without, error_of(without)


def error_of(without: Sequence[float]) -> float:
    """Return the jackknife's standard error from a statistic without each unit."""
    return float(((len(without) - 1) * np.var(without)) ** 0.5)


def mean_ranks(scores: Float[Tensor, "tests measures"]) -> Float[Tensor, " measures"]:
    """Return the mean rank of each measure over tests; rank 1 has the highest score, equal ones share their mean."""
    return torch.from_numpy(rankdata(-scores.numpy(), axis=1).mean(0))
