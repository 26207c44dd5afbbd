"""Projection-weighted canonical correlation analysis (Morcos, Raghu, Bengio 2018, arXiv 1806.05759)."""

from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.canonical import all_directions, canonical_correlations
from itda_lightning.measures.moments import CrossMoments


def pwcca(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """The mean canonical correlation, weighted by how much of x each canonical direction accounts for; in [0, 1].

    The weight of direction h is ``sum_j |<h, x_j>|`` over the dimensions j of x, all centred; computed in float64. Not
    symmetric: the weights are those of x. Invariant to any invertible affine map of y; to translation, isotropic scale and
    permutation of the dimensions of x, but not to its rotation, because the weights are sums of absolute values.
    The authors' code weights by the side of lower rank and does not centre it; this is the paper's definition.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, of any float type.

    Raises:
        InputError: as ``CrossMoments.of`` and ``pwcca_of``.
    """
    return pwcca_of(CrossMoments.of(x, y))


def pwcca_of(moments: CrossMoments) -> float:
    """``pwcca`` of sums over batches.

    Raises:
        InputError: no more tokens than the ranks of x and y together, where correlations would be 1.
    """
    x, y = all_directions(moments.xx), all_directions(moments.yy)
    directions, correlations = canonical_correlations(moments, x, y)
    weights = (x.spread @ directions).abs().sum(0)
    return float((weights * correlations).sum() / weights.sum())
