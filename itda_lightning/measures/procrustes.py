"""Orthogonal Procrustes (Schönemann 1966, Psychometrika 31) as a similarity (Ding, Denain, Steinhardt 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.moments import CrossMoments


def procrustes(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return ``|X'Y|_* / (|X|_F |Y|_F)`` with centred columns, in [0, 1]: their cosine after the best rotation.

    ``|.|_*`` is the sum of singular values. Ding et al. (arXiv 2108.01661) report the squared distance at norm one,
    which is ``2 - 2 procrustes``. Symmetric; invariant to translation, rotation and isotropic scale of either side. The
    narrower of two widths counts as padded with zeros. Computed in float64.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``CrossMoments.of``.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import procrustes
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(procrustes(x, 3 * x.flip(1) + 5), 6)  # rotated, scaled and moved
        1.0
    """
    return procrustes_of(CrossMoments.of(x, y))


def procrustes_of(moments: CrossMoments) -> float:
    """Compute ``procrustes`` from sums over batches."""
    nuclear = float(torch.linalg.svdvals(moments.xy).sum())
    return min(1.0, nuclear / float(moments.xx.trace().sqrt()) / float(moments.yy.trace().sqrt()))
