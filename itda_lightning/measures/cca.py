"""Canonical correlation analysis from moments alone (Hotelling 1936): SVCCA and projection-weighted CCA.

A Gram matrix squares its matrix, so correlations are exact to about 1e-16 times the ratio of the largest to the
smallest variance: 1e-8 if standard deviations differ by a factor of 10,000.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.moments import CrossMoments

# Directions with a smaller share of the largest variance are rounding errors of a float64 Gram matrix.
SMALLEST_SHARE = 1e-12


def svcca(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], variance: float = 0.99) -> float:
    """Return the mean canonical correlation of the leading singular directions of x and y, in [0, 1]; in float64.

    Each side keeps the fewest directions that hold at least ``variance`` of its variance; the mean is over the smaller
    of the two numbers of directions. Symmetric; invariant to translation, rotation and isotropic scale of either side,
    and with ``variance=1`` to any invertible map (Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017, arXiv 1706.05806).

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.
        variance: share of variance to keep, in (0, 1].

    Raises:
        InputError: as ``CrossMoments.of`` and ``svcca_of``.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [-1.0, -2.0], [3.0, 1.0]])
        >>> round(il.svcca(x, 3 * x.flip(1) + 5), 6)  # rotated, scaled and moved
        1.0
    """
    return svcca_of(CrossMoments.of(x, y), variance)


def svcca_of(moments: CrossMoments, variance: float = 0.99) -> float:
    """Compute ``svcca`` from sums over batches.

    Raises InputError for a share outside (0, 1], and if there are no more tokens than directions.
    """
    if not 0 < variance <= 1:
        raise InputError(f"variance must be a share in (0, 1], got {variance}")
    x, y = (leading_directions(gram, variance) for gram in (moments.xx, moments.yy))
    return float(canonical_correlations(moments, x, y)[1].mean())


def pwcca(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return the mean canonical correlation, weighted by how much of x each direction accounts for; in [0, 1].

    Direction h has the weight ``sum_j |<h, x_j>|`` over the dimensions j of x, all centred; computed in float64. Not
    symmetric: the weights are those of x. Invariant to any invertible affine map of y, and to translation, isotropic
    scale and permutation of the dimensions of x, but not to its rotation, as the weights are sums of absolute values.
    This is the definition of Morcos, Raghu, Bengio 2018 (arXiv 1806.05759); their code takes the weights from the side
    of lower rank and does not centre it.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``CrossMoments.of`` and ``pwcca_of``.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import pwcca
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [-1.0, -2.0], [3.0, 1.0]])
        >>> round(pwcca(x, x @ torch.tensor([[1.0, 2.0], [0.0, 1.0]])), 6)  # y is an invertible map of x
        1.0
    """
    return pwcca_of(CrossMoments.of(x, y))


def pwcca_of(moments: CrossMoments) -> float:
    """Compute ``pwcca`` from sums over batches.

    Raises InputError if there are no more tokens than the ranks of x and y together.
    """
    x = all_directions(moments.xx)
    directions, correlations = canonical_correlations(moments, x, all_directions(moments.yy))
    weights = (x.spread @ directions).abs().sum(0)
    return float((weights * correlations).sum() / weights.sum())


class Directions(NamedTuple):
    """Directions of a centred representation x (n, d) whose projections are orthonormal over the tokens."""

    whiten: Float[Tensor, "d r"]  # with ``(x whiten)' (x whiten) = 1``
    spread: Float[Tensor, "d r"]  # ``x'x whiten``: covariance of each dimension of x with each direction


def leading_directions(gram: Float[Tensor, "d d"], variance: float) -> Directions:
    """Return the fewest principal directions with at least this share of the variance."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > SMALLEST_SHARE * values[0]).sum())
    share = values[:rank].cumsum(0) / values[:rank].sum()
    kept = min(int((share < variance - 1e-12).sum()) + 1, rank)
    root = values[:kept].sqrt()
    return Directions(vectors[:, :kept] / root, vectors[:, :kept] * root)


def all_directions(gram: Float[Tensor, "d d"]) -> Directions:
    """Return one direction per linearly independent dimension of x."""
    # Dimensions are scaled to variance one first, so that different scales cost no digits.
    scale = gram.diagonal().sqrt()[:, None]
    divisor = torch.where(scale > 0, scale, torch.inf)
    directions = leading_directions(gram / divisor.T / divisor, 1.0)
    return Directions(directions.whiten / divisor, scale * directions.spread)


def canonical_correlations(
    moments: CrossMoments, x: Directions, y: Directions
) -> tuple[Float[Tensor, "r1 r"], Float[Tensor, " r"]]:
    """Return the canonical directions of x, columns in terms of its whitened ones, and descending correlations."""
    count = x.whiten.shape[1] + y.whiten.shape[1]
    if moments.n <= count:
        raise InputError(
            f"{moments.n} tokens are too few for {count} directions: correlations would be 1 for any data; "
            "give more tokens"
        )
    left, correlations, _ = torch.linalg.svd(x.whiten.T @ moments.xy @ y.whiten, full_matrices=False)
    return left, correlations.clamp(max=1.0)
