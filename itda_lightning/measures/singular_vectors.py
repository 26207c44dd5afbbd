"""Singular vector canonical correlation analysis (Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017, arXiv 1706.05806)."""

from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.canonical import canonical_correlations, leading_directions
from itda_lightning.measures.moments import CrossMoments


def svcca(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], variance: float = 0.99) -> float:
    """The mean canonical correlation of the leading singular directions of both sides, in [0, 1]; in float64.

    Each side keeps the fewest directions with at least ``variance`` of its variance; the mean is over the smaller of the
    two numbers of directions. Symmetric; invariant to translation, rotation and isotropic scale of either side, and
    with ``variance=1`` to any invertible map.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, of any float type.
        variance: the share of variance to keep, in (0, 1].

    Raises:
        InputError: as ``CrossMoments.of`` and ``svcca_of``.
    """
    return svcca_of(CrossMoments.of(x, y), variance)


def svcca_of(moments: CrossMoments, variance: float = 0.99) -> float:
    """``svcca`` of sums over batches.

    Raises:
        InputError: a share outside (0, 1]; no more tokens than directions, where correlations would be 1.
    """
    if not 0 < variance <= 1:
        raise InputError(f"variance must be a share in (0, 1], got {variance}")
    x, y = (leading_directions(gram, variance) for gram in (moments.xx, moments.yy))
    return float(canonical_correlations(moments, x, y)[1].mean())
