"""Linear centred kernel alignment (Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414), plain and debiased."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.moments import CrossMoments


def cka(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], debiased: bool = False) -> float:
    """Return ``|Y'X|_F^2 / (|X'X|_F |Y'Y|_F)`` with centred columns, in [0, 1]; computed in float64.

    Symmetric; invariant to translation, rotation and isotropic scale of either side. If there are few tokens per
    dimension, it is large for unrelated representations; the debiased form is then about 0, and may be negative.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.
        debiased: use the unbiased estimator of HSIC (Song, Smola, Gretton, Bedo, Borgwardt 2012, JMLR 13, Eq. 5) in all
            three places, as Nguyen, Raghu, Kornblith 2021 (arXiv 2010.15327).

    Raises:
        InputError: as ``CrossMoments.of`` and ``cka_of``.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(il.cka(x, 3 * x.flip(1) + 5), 6)  # rotated, scaled and moved
        1.0
        >>> round(il.cka(x, x * torch.tensor([1.0, 0.0])), 6)  # one of two dimensions
        0.707107
    """
    return cka_of(CrossMoments.of(x, y), debiased)


def cka_of(moments: CrossMoments, debiased: bool = False) -> float:
    """Compute ``cka`` from sums over batches.

    Raises InputError if it is debiased and there are fewer than four tokens, or a kernel is zero off its diagonal.
    """
    products = (moments.xy, moments.xx, moments.yy)
    # Scaled to trace one: products of fourth powers overflow early.
    tx, ty = float(moments.xx.trace()), float(moments.yy.trace())
    scales = ((tx**0.5) * (ty**0.5), tx, ty)
    xy, xx, yy = (float(torch.linalg.matrix_norm(m / s)) ** 2 for m, s in zip(products, scales, strict=True))
    if debiased:
        n = moments.n
        if n < 4:
            raise InputError(f"{n} tokens are too few for debiased CKA: give at least 4")
        norms = (moments.norms_xy / tx / ty, moments.norms_xx / tx / tx, moments.norms_yy / ty / ty)
        # n (n - 3) times Song's estimator; centred columns make the row sums of each kernel zero.
        xy, xx, yy = (
            full - n / (n - 2) * diagonal + 1 / ((n - 1) * (n - 2))
            for full, diagonal in zip((xy, xx, yy), norms, strict=True)
        )
        if min(xx, yy) <= 1e-12:
            raise InputError(
                f"the debiased HSIC of {'x' if xx <= yy else 'y'} with itself is 0 to rounding: all pairs of tokens "
                "are equally alike or one token dwarfs all others; give more tokens or leave that one out"
            )
    return xy / (xx**0.5 * yy**0.5)


def cka_null_of(moments: CrossMoments) -> float:
    """Return the mean of ``cka`` over all permutations of the rows of y: ``tr K tr L / ((n - 1) |K|_F |L|_F)``.

    Exact, as the off-diagonal entries of a centred kernel sum to minus its trace. That of the debiased form is 0 (its
    numerator is an unbiased estimate for any pairing).
    """
    # |X'X|_F is |K|_F of the n x n kernel K = X X'.
    x, y = (float(gram.trace() / torch.linalg.matrix_norm(gram)) for gram in (moments.xx, moments.yy))
    return x * y / (moments.n - 1)
