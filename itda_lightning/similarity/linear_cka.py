"""Linear centred kernel alignment (Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.similarity.aligned import aligned, centred


def cka(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """``|Y'X|_F^2 / (|X'X|_F |Y'Y|_F)`` with centred columns, in [0, 1]; the feature-space form, computed in float64.

    Invariant to rotation and isotropic scale of either side.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens.

    Raises:
        InputError: as ``aligned``; a representation without variance.
    """
    x, y = aligned(x, y)
    x, y = centred("x", x), centred("y", y)
    # Scaled first, since fourth powers of large activations overflow sooner than one thinks.
    x, y = x / torch.linalg.matrix_norm(x), y / torch.linalg.matrix_norm(y)
    cross = torch.linalg.matrix_norm(y.T @ x).square()
    return float(cross / (torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)))
