"""Measures of two sites that compare held-out tokens through anchors, tokens at which both have an activation."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 256  # tokens that are compared at a time

# Widths differ between models.
Sites = list[Float[Tensor, "tokens _"]]
Anchors = list[Float[Tensor, "anchors _"]]
Matrix = Float[Tensor, "sites sites"]


def relative(sites: Sites, anchors: Anchors) -> Matrix:
    """Return the mean cosine of the relative representations of a token (``il.relative_similarity``) of all pairs."""
    total = torch.zeros(len(sites), len(sites), dtype=torch.float64)
    directions = [normalize(one, dim=1) for one in anchors]
    for start in range(0, len(sites[0]), ROWS):
        parts = [normalize(x[start : start + ROWS], dim=1) @ a.T for x, a in zip(sites, directions, strict=True)]
        entries = normalize(torch.stack(parts), dim=2).flatten(1)
        total += (entries @ entries.T).double()
    return total / len(sites[0])


def pairwise(sites: Sites, measure: Callable[[Tensor, Tensor], float]) -> Matrix:
    """Return a measure of all pairs of sites, 1 of a site and itself."""
    return _symmetric(len(sites), lambda i, j: measure(sites[i], sites[j]))


def aligned_at(sites: Sites, anchors: Anchors) -> Matrix:
    """Return the mean cosine of a token's two activations after the rotation that fits the anchors best, of all pairs.

    Activations and anchors are of norm 1 first. The rotation is orthogonal Procrustes' of the anchors alone, so the
    tokens that are compared have no part in it. Widths may differ: the smaller space is embedded in the larger.
    """
    tokens, of_anchors = ([normalize(one, dim=1) for one in group] for group in (sites, anchors))

    def cosine(i: int, j: int) -> float:
        left, _, right = torch.linalg.svd(of_anchors[i].T.double() @ of_anchors[j].double(), full_matrices=False)
        crossed = tokens[i].T @ tokens[j]
        return float((crossed.double() * (left @ right)).sum()) / len(tokens[i])

    return _symmetric(len(sites), cosine)


def _symmetric(sites: int, measure: Callable[[int, int], float]) -> Matrix:
    values = torch.eye(sites, dtype=torch.float64)
    for i in range(sites):
        for j in range(i):
            values[i, j] = values[j, i] = measure(i, j)
    return values
