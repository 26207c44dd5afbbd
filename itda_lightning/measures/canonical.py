"""Whitened directions of a representation and canonical correlations, from moments alone (Hotelling 1936).

A Gram matrix squares what it is of, so correlations are exact to about 1e-16 times the ratio of the largest variance to
the smallest: 1e-8 where standard deviations differ by 10,000 times.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.moments import CrossMoments

# Directions with a smaller share of the largest variance are rounding: a Gram matrix in float64 knows no smaller ones.
SMALLEST_SHARE = 1e-12


class Directions(NamedTuple):
    """Directions of a centred representation x (n, d) whose projections are orthonormal over the tokens.

    Attributes:
        whiten: (d, r) with ``(x whiten)' (x whiten) = 1``.
        spread: (d, r), ``x'x whiten``: the covariance of each dimension of x with each direction.
    """

    whiten: Float[Tensor, "d r"]
    spread: Float[Tensor, "d r"]


def leading_directions(gram: Float[Tensor, "d d"], variance: float) -> Directions:
    """The fewest principal directions with at least this share of the variance."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > SMALLEST_SHARE * values[0]).sum())
    share = values[:rank].cumsum(0) / values[:rank].sum()
    kept = min(int((share < variance - 1e-12).sum()) + 1, rank)
    root = values[:kept].sqrt()
    return Directions(vectors[:, :kept] / root, vectors[:, :kept] * root)


def all_directions(gram: Float[Tensor, "d d"]) -> Directions:
    """As many as x has linearly independent dimensions.

    Dimensions are scaled to variance one first: what spans the same space whatever their scales should not lose digits
    by them.
    """
    scale = gram.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, torch.inf)
    directions = leading_directions(gram / scale / scale[:, None], 1.0)
    return Directions(
        directions.whiten / scale[:, None],
        torch.where(scale.isinf(), 0.0, scale)[:, None] * directions.spread,
    )


def canonical_correlations(
    moments: CrossMoments, x: Directions, y: Directions
) -> tuple[Float[Tensor, "r1 r"], Float[Tensor, " r"]]:
    """Canonical directions of x as columns of coefficients of its whitened ones, and their correlations, descending.

    Raises:
        InputError: no more tokens than directions of both, where some correlations would be 1 whatever the data.
    """
    directions = x.whiten.shape[1] + y.whiten.shape[1]
    if moments.n <= directions:
        raise InputError(
            f"{moments.n} tokens are too few for {directions} directions: correlations would be 1 whatever the data; "
            "give more tokens"
        )
    left, correlations, _ = torch.linalg.svd(x.whiten.T @ moments.xy @ y.whiten, full_matrices=False)
    return left, correlations.clamp(max=1.0)
