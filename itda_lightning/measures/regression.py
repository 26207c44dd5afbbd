"""Share of one representation's variance that is linear in another (Kornblith et al. 2019, arXiv 1905.00414)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.cca import all_directions
from itda_lightning.measures.moments import CrossMoments


def regression_r2(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return the R^2 of predicting y from x, ``1 - min_B |Y - X B|_F^2 / |Y|_F^2`` with centred columns, in [0, 1].

    Least squares with an intercept, measured on the tokens it is fitted on; in float64. Not symmetric. Invariant to any
    invertible affine map of x, and to translation, rotation and isotropic scale of y. Linearly dependent dimensions of
    x change nothing.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``CrossMoments.of`` and ``regression_r2_of``.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import regression_r2
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> round(regression_r2(x, torch.cat([2 * x + 1, -x], dim=1)), 6)
        1.0
    """
    return regression_r2_of(CrossMoments.of(x, y))


def regression_r2_of(moments: CrossMoments) -> float:
    """Compute ``regression_r2`` from sums over batches.

    Raises InputError if there are no more tokens than the rank of x and the intercept.
    """
    x = all_directions(moments.xx).whiten
    rank = x.shape[1]
    if moments.n <= rank + 1:
        raise InputError(
            f"{moments.n} tokens are too few for a regression on {rank} independent dimensions of x: R^2 would be 1 "
            "for any y; give more tokens"
        )
    # Scaled before squaring, as the squares of sums of squares may overflow.
    explained = x.T @ moments.xy / moments.yy.trace().sqrt()
    return min(1.0, float(torch.linalg.matrix_norm(explained)) ** 2)


def regression_null_of(moments: CrossMoments) -> float:
    """Return the mean of ``regression_r2`` over all permutations of the rows of y: rank of x / (n - 1), exactly."""
    return all_directions(moments.xx).whiten.shape[1] / (moments.n - 1)
