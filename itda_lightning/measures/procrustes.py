"""Orthogonal Procrustes (Schönemann 1966, Psychometrika 31) as a similarity (Ding, Denain, Steinhardt 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.moments import CrossMoments


def procrustes(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """``|X'Y|_* / (|X|_F |Y|_F)`` with centred columns, in [0, 1]: the cosine of x and y after the best rotation of x.

    ``|.|_*`` is the sum of singular values. Ding et al. (arXiv 2108.01661) report the squared distance of the two at norm
    one, which is ``2 - 2 procrustes``. Symmetric; invariant to translation, rotation and isotropic scale of either
    side. Of two widths, the narrower counts as padded with zeros. Computed in float64.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, of any float type.

    Raises:
        InputError: as ``CrossMoments.of``.
    """
    return procrustes_of(CrossMoments.of(x, y))


def procrustes_of(moments: CrossMoments) -> float:
    """``procrustes`` of sums over batches."""
    nuclear = float(torch.linalg.svdvals(moments.xy).sum())
    return min(1.0, nuclear / float(moments.xx.trace().sqrt()) / float(moments.yy.trace().sqrt()))
