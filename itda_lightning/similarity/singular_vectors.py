"""Singular vector canonical correlation analysis (Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017, arXiv 1706.05806)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.similarity.aligned import aligned, centred


def svcca(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], variance: float = 0.99) -> float:
    """The mean canonical correlation of the leading singular directions of both sides, in [0, 1]; in float64.

    Each side keeps the fewest directions with at least ``variance`` of its variance; the mean is over the smaller of the
    two numbers of directions. Invariant to rotation and isotropic scale, and with ``variance=1`` to invertible maps.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens.
        variance: the share of variance to keep, in (0, 1].

    Raises:
        InputError: as ``aligned``; a share outside (0, 1]; a representation without variance; no more tokens than
            directions, where every correlation would be 1.
    """
    if not 0 < variance <= 1:
        raise InputError(f"variance must be a share in (0, 1], got {variance}")
    x, y = aligned(x, y)
    left = _leading_directions(centred("x", x), variance)
    right = _leading_directions(centred("y", y), variance)
    directions = left.shape[1] + right.shape[1]
    if len(x) <= directions:
        raise InputError(f"{len(x)} tokens are too few for {directions} directions: correlations would be 1; give more")
    correlations = torch.linalg.svdvals(left.T @ right).clamp(max=1.0)
    return float(correlations.mean())


def _leading_directions(x: Float[Tensor, "n d"], variance: float) -> Float[Tensor, "n kept"]:
    """Orthonormal columns: what CCA compares once each side's directions are whitened."""
    left, values, _ = torch.linalg.svd(x, full_matrices=False)
    rank = int((values > 1e-10 * values[0]).sum())
    share = values[:rank].square().cumsum(0) / values[:rank].square().sum()
    kept = min(int((share < variance - 1e-12).sum()) + 1, rank)
    return left[:, :kept]
