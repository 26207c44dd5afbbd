"""The value of a measure that is expected when the rows of one representation are permuted against the other's.

Finite samples make unrelated representations look alike, the more the wider they are (Gröger, Wen, Brbić 2026, arXiv
2602.14486). ``excess`` sets a value beside what a random pairing of the same rows gives. Measures with a closed form
have it in their own file (``cka_null_of``, ``regression_null_of``); ``permuted`` serves every other measure of moments.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.cca import SMALLEST_SHARE
from itda_lightning.measures.moments import CrossMoments

# Random pairings that are averaged where there is no closed form. Singular values of a random matrix hardly vary.
DRAWS = 4


def excess(value: float, null: float) -> float:
    """Return ``(value - null) / (1 - null)``: 0 for what a random pairing gives, 1 for identity; nan if that gives 1.

    The correction of the adjusted Rand index (Hubert, Arabie 1985). The calibrated score of Gröger et al. (arXiv
    2602.14486) has a high quantile of the permuted values in place of their mean, and 0 for what is below it; the
    mean needs no choice of a quantile, and few permutations.

    Example:
        >>> from itda_lightning.measures import excess
        >>> excess(0.75, 0.5)
        0.5
    """
    return (value - null) / (1 - null) if null < 1 else float("nan")


def null_of(measure: Callable[[CrossMoments], float], moments: CrossMoments) -> float:
    """Return the mean of a measure of moments over random pairings of the rows of x and y; see ``permuted``.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import CrossMoments, null_of, procrustes_of
        >>> x = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
        >>> moments = CrossMoments.of(x, x)
        >>> round(procrustes_of(moments), 6), round(null_of(procrustes_of, moments), 1)  # of 200 tokens
        (1.0, 0.4)
    """
    roots = square_root(moments.xx), square_root(moments.yy)
    return sum(measure(permuted(moments, *roots, seed=draw)) for draw in range(DRAWS)) / DRAWS


def permuted(
    moments: CrossMoments, root_x: Float[Tensor, "d1 r1"], root_y: Float[Tensor, "d2 r2"], seed: int
) -> CrossMoments:
    """Return moments as after a random permutation of the rows of y, from the moments alone; float64.

    Over all permutations P the entries of ``X'P Y`` have mean 0 and covariance ``(X'X) x (Y'Y) / (n - 1)``, Kronecker's
    product, exactly. So they have over all rotations of the n - 1 dimensions that centred rows span, of which one is
    drawn in place of the permutation: only a block of it is needed, and no other pass over the tokens. Roots are those
    of ``square_root``.
    """
    block = rotation_block(moments.n - 1, root_x.shape[1], root_y.shape[1], seed)
    norms = float(moments.xx.trace() * moments.yy.trace()) / moments.n
    return moments._replace(xy=root_x @ block.to(root_x.device) @ root_y.T, norms_xy=norms)


def square_root(gram: Float[Tensor, "d d"]) -> Float[Tensor, "d r"]:
    """Return a matrix of full column rank that gives the Gram matrix when multiplied by its transpose."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > SMALLEST_SHARE * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def rotation_block(n: int, rows: int, columns: int, seed: int) -> Float[Tensor, "rows columns"]:
    """Draw the first rows and columns of a random rotation of n dimensions, at a cost that does not depend on n.

    Columns of normal numbers, orthonormalised, are those of such a rotation. Of the rows that are not returned only the
    triangular factor is drawn: chi variates on its diagonal, normal ones above (Bartlett 1933).
    """
    # Distributions of torch draw from its global generator, which is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        above = torch.randn(rows, columns, dtype=torch.float64)
        left = n - rows
        if left < columns:
            below = torch.randn(left, columns, dtype=torch.float64)
        else:
            below = torch.randn(columns, columns, dtype=torch.float64).triu(1)
            squares = torch.distributions.Chi2(left - torch.arange(columns, dtype=torch.float64)).sample()
            below.diagonal().copy_(squares.sqrt())
    q, r = torch.linalg.qr(torch.cat([above, below]))
    return q[:rows] * r.diagonal().sign()
