"""The angle between two representations after the best rotation, a metric (Williams et al. 2021)."""

import math

from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.moments import CrossMoments
from itda_lightning.measures.procrustes import procrustes_of


def angular_procrustes(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return ``1 - theta / (pi / 2)`` with ``theta = arccos(procrustes(x, y))``, in [0, 1]; in float64.

    ``theta`` is the angular shape metric of Williams et al. (arXiv 2110.14739), which obeys the triangle inequality, so
    ``1 -`` this similarity does; the cosine does not. Symmetric; invariant to translation, rotation and isotropic scale
    of either side. Near 1 an error of the cosine counts by its root: of 1e-15 as 3e-8.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``CrossMoments.of``.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import angular_procrustes
        >>> x = torch.tensor([[1.0], [0.0], [-1.0], [0.0]])
        >>> round(angular_procrustes(x, x.roll(1)), 6)  # at a right angle
        0.0
    """
    return angular_procrustes_of(CrossMoments.of(x, y))


def angular_procrustes_of(moments: CrossMoments) -> float:
    """Compute ``angular_procrustes`` from sums over batches."""
    return 1 - math.acos(procrustes_of(moments)) / (math.pi / 2)
